package callhooktest

import "time"

// SetPatience changes how long the suite waits for what has to happen.
func SetPatience(d time.Duration) { patience = d }
