/**
 * The part of the leg protocol (`leg.ts`) that is about transfers: what became of a REFER that came
 * (RFC 3515), one that we send, another dialog in the leg's place (RFC 3891), INFO that passes
 * through. What is done with it is `transfer.ts` above and `leg-refer.ts` below.
 */
/** What a leg can be told of transfers. */
export type ReferAction =
  /** How the call goes that the peer's REFER asked for; after the last word BYE follows. */
  | {
      readonly kind: 'referOutcome';
      readonly referId: string;
      readonly sipStatus: number;
      readonly isLast: boolean;
    }
  /** Asks the peer to call `uri` instead of us. Outcome: referProgress. */
  | {
      readonly kind: 'refer';
      readonly uri: string;
      readonly headers: readonly (readonly [name: string, value: string])[];
      readonly referredBy: string;
    }
  | InfoAction;

export interface InfoAction {
  readonly kind: 'sendInfo';
  readonly package: string;
  readonly contentType: string;
  readonly body: string;
}

/** What a leg tells of them. */
export type ReferFact =
  | {
      readonly kind: 'referProgress';
      /** Of the command. */
      readonly id: string;
      /** Of the answer to REFER, and of the call as the peer notifies it; 0: none yet. */
      readonly sipStatus: number;
      readonly notifiedStatus: number;
      readonly isOver: boolean;
    }
  /** Another dialog took the place of the leg's own (RFC 3891). */
  | { readonly kind: 'replaced'; readonly sipCallId: string }
  | {
      readonly kind: 'info';
      readonly package: string;
      readonly contentType: string;
      readonly body: string;
    };
