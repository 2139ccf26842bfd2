package callhooktest

import (
	"time"

	"github.com/callhook-go/callhook"
)

// SetPatience changes how long the suite waits for what has to happen.
func SetPatience(d time.Duration) { patience = d }

// Full returns the delivery with every field, and Diff says how another differs.
func Full() *callhook.Delivery                 { return full("full") }
func Diff(want, got *callhook.Delivery) string { return diff(want, got) }
