/**
 * The parameters and fields that applications and numbers share: where to ask what to do with a
 * call. In an update a parameter that is not given keeps its value, an empty one clears it.
 */
import { type Static, Type } from 'typebox';
import type { JsonObject, VoiceSettings } from '../store/store.ts';
import { optionalBoolean, optionalMethod, optionalText, optionalUrl } from './parameters.ts';

export const VOICE_PARAMS = {
  VoiceUrl: optionalText,
  VoiceMethod: optionalMethod,
  VoiceFallbackUrl: optionalText,
  VoiceFallbackMethod: optionalMethod,
  StatusCallback: optionalText,
  StatusCallbackMethod: optionalMethod,
  VoiceCallerIdLookup: optionalBoolean,
};
const VoiceSchema = Type.Object(VOICE_PARAMS);

export const NO_VOICE: VoiceSettings = {
  voiceUrl: null,
  voiceMethod: 'POST',
  voiceFallbackUrl: null,
  voiceFallbackMethod: 'POST',
  statusCallback: null,
  statusCallbackMethod: 'POST',
  voiceCallerIdLookup: false,
};

/** What the parameters set; absent fields stay as they were. */
export function voiceChange(given: Static<typeof VoiceSchema>): Partial<VoiceSettings> {
  return {
    ...(given.VoiceUrl !== undefined && { voiceUrl: optionalUrl(given.VoiceUrl) }),
    ...(given.VoiceMethod && { voiceMethod: given.VoiceMethod }),
    ...(given.VoiceFallbackUrl !== undefined && {
      voiceFallbackUrl: optionalUrl(given.VoiceFallbackUrl),
    }),
    ...(given.VoiceFallbackMethod && { voiceFallbackMethod: given.VoiceFallbackMethod }),
    ...(given.StatusCallback !== undefined && {
      statusCallback: optionalUrl(given.StatusCallback),
    }),
    ...(given.StatusCallbackMethod && { statusCallbackMethod: given.StatusCallbackMethod }),
    ...(given.VoiceCallerIdLookup !== undefined && {
      voiceCallerIdLookup: given.VoiceCallerIdLookup,
    }),
  };
}

/** Messaging is not ours: its fields are there because clients read them, and say "not set". */
export function voiceJson(row: VoiceSettings): JsonObject {
  return {
    voice_url: row.voiceUrl,
    voice_method: row.voiceMethod,
    voice_fallback_url: row.voiceFallbackUrl,
    voice_fallback_method: row.voiceFallbackMethod,
    voice_caller_id_lookup: row.voiceCallerIdLookup,
    status_callback: row.statusCallback,
    status_callback_method: row.statusCallbackMethod,
    sms_url: null,
    sms_method: 'POST',
    sms_fallback_url: null,
    sms_fallback_method: 'POST',
  };
}
