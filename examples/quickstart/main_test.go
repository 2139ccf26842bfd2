package main

import (
	"bytes"
	"regexp"
	"testing"
)

func TestQuickstart(t *testing.T) {
	var out bytes.Buffer
	if err := run(&out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	want := regexp.MustCompile(`(?m)^ok: greeting "Hi Ada, calling about Tuesday\?", 3 delivered, 0 dead, 0 pending$`)
	if !want.Match(out.Bytes()) {
		t.Errorf("last line is not the promised one:\n%s", &out)
	}
}
