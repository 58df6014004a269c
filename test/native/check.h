// Checks for the native test programs: TEST registers a case, CHECK... count failures and go on.
//
// Output is TAP, so that the same reader serves C++ and TypeScript tests. Single-threaded.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace tandem::test {

struct Case {
  const char* name;
  void (*run)();
};

struct Tally {
  std::vector<Case> cases;
  int failures = 0;        // in the case that runs
  const char* skipped = nullptr;
};

inline Tally& tally() {
  static Tally instance;
  return instance;
}

struct Register {
  Register(const char* name, void (*run)()) { tally().cases.push_back({name, run}); }
};

// A line for the reader: a measured number, a seed.
[[gnu::format(printf, 1, 2)]] inline void note(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::printf("  # ");
  std::vprintf(format, arguments);
  std::printf("\n");
  va_end(arguments);
}

// Ends the case as skipped, when its inputs are not there; return after it.
inline void skip(const char* why) { tally().skipped = why; }

inline bool check(bool ok, const char* text, const char* file, int line) {
  if (ok) return true;
  ++tally().failures;
  std::printf("  # %s:%d: failed: %s\n", file, line, text);
  return false;
}

inline bool check_between(double value, double low, double high, const char* text,
                          const char* file, int line) {
  if (value >= low && value <= high) return true;  // not a number fails
  ++tally().failures;
  std::printf("  # %s:%d: failed: %s is %g, wanted %g .. %g\n", file, line, text, value, low, high);
  return false;
}

// Runs the cases whose name contains the first argument (all without one). Exit code of main().
inline int run(int argc, char** argv) {
  const char* filter = argc > 1 ? argv[1] : "";
  int number = 0;
  int failed = 0;
  std::printf("TAP version 13\n");
  for (const Case& one : tally().cases) {
    if (std::strstr(one.name, filter) == nullptr) continue;
    tally().failures = 0;
    tally().skipped = nullptr;
    one.run();
    const bool ok = tally().failures == 0;
    failed += ok ? 0 : 1;
    const char* skipped = tally().skipped;
    std::printf("%s %d - %s%s%s\n", ok ? "ok" : "not ok", ++number, one.name,
                skipped != nullptr ? " # SKIP " : "", skipped != nullptr ? skipped : "");
    std::fflush(stdout);
  }
  std::printf("1..%d\n", number);
  if (number == 0) std::printf("# no case is named like '%s'\n", filter);
  return failed == 0 && number > 0 ? 0 : 1;
}

}  // namespace tandem::test

#define TANDEM_TEST_JOIN2(a, b) a##b
#define TANDEM_TEST_JOIN(a, b) TANDEM_TEST_JOIN2(a, b)
#define TANDEM_TEST_NAME(prefix) TANDEM_TEST_JOIN(prefix, __LINE__)

#define TEST(name)                                                                            \
  static void TANDEM_TEST_NAME(test_)();                                                      \
  static const tandem::test::Register TANDEM_TEST_NAME(register_)(name, TANDEM_TEST_NAME(test_)); \
  static void TANDEM_TEST_NAME(test_)()
#define CHECK(condition) tandem::test::check((condition), #condition, __FILE__, __LINE__)
#define CHECK_BETWEEN(value, low, high) \
  tandem::test::check_between((value), (low), (high), #value, __FILE__, __LINE__)
#define CHECK_LEAST(value, low) CHECK_BETWEEN(value, low, HUGE_VAL)
#define CHECK_MOST(value, high) CHECK_BETWEEN(value, -HUGE_VAL, high)
