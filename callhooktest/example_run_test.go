package callhooktest_test

import "testing"

// TestExamples runs the tests that the examples show.
func TestExamples(t *testing.T) {
	t.Run("greets by name", greetsByName)
	t.Run("greets in time", greetsInTime)
	t.Run("delivers after an outage", deliversAfterAnOutage)
	t.Run("gives up after three days", givesUpAfterThreeDays)
}
