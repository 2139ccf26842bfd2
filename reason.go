package callhook

// Reason says why something was dropped: a variable of a reply, a delivery, an
// event that no webhook wanted. Nothing is dropped without one.
type Reason string

// Why a variable or a directive of a reply was not taken, see [Change].
const (
	ReasonInvalidName  Reason = "invalid_name"  // not [A-Za-z_][A-Za-z0-9_]*
	ReasonReservedName Reason = "reserved_name" // call and system are not variables
	ReasonUndeclared   Reason = "undeclared"    // a flat reply gives declared variables only
	ReasonLocked       Reason = "locked"        // the config locks it
	ReasonMissing      Reason = "missing"       // the reply has nothing at its path in response.variables
	ReasonNull         Reason = "null"          // null keeps what was there
	ReasonEmpty        Reason = "empty"         // so does an empty text
	ReasonTooLong      Reason = "too_long"      // a text or number of more than 4 KiB, an object or array of more than 16 KiB
	ReasonTooMany      Reason = "too_many"      // more than 200 variables
	ReasonWrongType    Reason = "wrong_type"    // not the declared type, nor convertible without loss
	ReasonNotAllowed   Reason = "not_allowed"   // a directive that the config does not name
	ReasonInvalid      Reason = "invalid"       // a directive whose value makes no sense
	ReasonOverridden   Reason = "overridden"    // a directive that a stronger one replaces
)

// Why a delivery became a dead letter.
const (
	ReasonRejected       Reason = "rejected"        // the receiver refused this event 5 times
	ReasonTooLarge       Reason = "too_large"       // the receiver takes no body or headers of this size
	ReasonExpired        Reason = "expired"         // it could not be delivered within retry.max_age
	ReasonMaxAttempts    Reason = "max_attempts"    // it could not be delivered within retry.max_attempts
	ReasonBlockedAddress Reason = "blocked_address" // the URL has an address or a port that nothing is sent to
	ReasonBuildFailed    Reason = "build_failed"    // its payload could not be built
	ReasonDamaged        Reason = "damaged"         // the queue cannot read it any more, or it was changed there
	ReasonWebhookRemoved Reason = "webhook_removed" // the agent has the webhook no more
)

// Why an event made no delivery, see [Stats.Skipped].
const (
	ReasonNoConfig  Reason = "no_config"  // the agent has no config in production
	ReasonNoWebhook Reason = "no_webhook" // no webhook of the agent wants this event
)

// Why a lane sends nothing, see [LaneState].
const (
	// ReasonDown: its endpoint fails. For deliveries that is when five different ones
	// failed in a row, or 16 of the last 20 attempts; one probes it after 5 seconds,
	// then after twice as long each time, at most 5 minutes. For lookups it is when
	// half of the last 20 failed (of 5 at least), or most took nearly all of their
	// time; one probes it after a second, at most 30.
	ReasonDown      Reason = "down"
	ReasonGone      Reason = "gone"      // its endpoint answered 410: until the config is published anew, or Hooks.Resume
	ReasonPostponed Reason = "postponed" // its endpoint asked to come later
	ReasonPaused    Reason = "paused"    // its config says so
	ReasonNoSecret  Reason = "no_secret" // a secret that it needs cannot be had, or is not a key
	// and ReasonNoConfig: the config source fails.
)
