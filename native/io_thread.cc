// The blocking thread; see io_thread.h.
#include "io_thread.h"

#include <pthread.h>

#include <algorithm>
#include <iterator>

namespace tandem {

IoThread::IoThread(std::atomic<bool>& pending, const std::function<void()>& notify)
    : events_(kEventsMax, kObjectsMax, pending, notify), garbage_(kGarbageMax) {}

void IoThread::start() {
  thread_ = std::thread([this] { run(); });
}

void IoThread::stop() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  wakeup_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void IoThread::add(std::shared_ptr<IoTask> task) {
  {
    const std::lock_guard lock(mutex_);
    added_.push_back(std::move(task));
  }
  wakeup_.notify_one();
}

void IoThread::run() {
  pthread_setname_np(pthread_self(), "tandem-io");
  for (bool is_stopping = false; !is_stopping;) {
    {
      std::unique_lock lock(mutex_);
      // The real-time thread never notifies (that could cost it a system call on a lock); the
      // idle interval bounds how long freed objects wait instead.
      wakeup_.wait_for(lock, tasks_.empty() ? kIdleInterval : kBusyInterval,
                       [this] { return is_stopping_ || !added_.empty(); });
      std::move(added_.begin(), added_.end(), std::back_inserter(tasks_));
      added_.clear();
      is_stopping = is_stopping_;
    }
    turn();
  }
  tasks_.clear();
}

void IoThread::turn() {
  // Discards first: a recording whose port is gone is finished by the same turn.
  std::unique_ptr<Resource> object;
  while (garbage_.pop(object)) object.reset();
  std::erase_if(tasks_, [this](const auto& task) { return !task->pump(events_); });
  events_.flush();
}

}  // namespace tandem
