package callhook

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// Limits of a path.
const (
	maxPathBytes = 256
	maxPathSteps = 32
)

// checkPath returns an error unless path is one of the forms that callhook
// documents: names and indexes joined by dots, # for the number or all of an
// array's elements, #(name=="text") for the first that matches and #(…)# for
// all. They mean what they mean in gjson; its modifiers, wildcards, multipaths
// and literals are refused, since a config must not compute.
func checkPath(path string) error {
	if path == "" {
		return errors.New(`a path is empty: write one like "contact.first_name"`)
	}
	if len(path) > maxPathBytes {
		return fmt.Errorf("a path is longer than %d characters", maxPathBytes)
	}
	steps := 0
	for rest := path; ; {
		step, after, more, err := cutStep(rest)
		if err != nil {
			return fmt.Errorf("path %s: %w", path, err)
		}
		if steps++; steps > maxPathSteps {
			return fmt.Errorf("path %s has more than %d steps", path, maxPathSteps)
		}
		if err := checkStep(step); err != nil {
			return fmt.Errorf("path %s: %w", path, err)
		}
		if !more {
			return nil
		}
		rest = after
	}
}

func checkStep(step string) error {
	switch {
	case step == "":
		return errors.New("there is nothing between two dots, or at an end")
	case step == "#":
		return nil
	case strings.HasPrefix(step, "#("):
		return checkQuery(strings.TrimSuffix(step, "#"))
	}
	for i := 0; i < len(step); i++ {
		switch c := step[i]; {
		case c == '\\' && i+1 < len(step):
			i++
		case strings.IndexByte(`@!{}[]|*?#()\`, c) >= 0:
			return fmt.Errorf(`%q is not supported here: a path is names and numbers joined by dots, with # and #(name=="text") for arrays`, c)
		case c < 0x20 || c == 0x7f:
			return errors.New("it has a control character in it")
		}
	}
	return nil
}

// checkQuery checks #(name=="text"): one comparison, no patterns, no nesting.
func checkQuery(q string) error {
	bad := fmt.Errorf(`%s is not a query: write #(name=="text"), with ==, !=, <, <=, > or >=`, q)
	inner, ok := strings.CutSuffix(strings.TrimPrefix(q, "#("), ")")
	if !ok {
		return bad
	}
	at := strings.IndexAny(inner, "=!<>")
	if at < 0 {
		return bad
	}
	name := strings.TrimSpace(inner[:at])
	op := inner[at : at+1]
	if at+1 < len(inner) && inner[at+1] == '=' {
		op = inner[at : at+2]
	}
	value := strings.TrimSpace(inner[at+len(op):])
	if op == "=" || op == "!" || value == "" || value[0] == '~' {
		return bad
	}
	for _, step := range strings.Split(name, ".") {
		if name != "" && (checkStep(step) != nil || strings.HasPrefix(step, "#")) {
			return bad
		}
	}
	if value[0] == '"' {
		if len(value) < 2 || value[len(value)-1] != '"' || strings.Contains(value[1:len(value)-1], `"`) {
			return bad
		}
		return nil
	}
	if !gjson.Valid(value) {
		return bad
	}
	return nil
}

// cutStep cuts the first step of a path at its dot, outside of queries.
func cutStep(path string) (step, rest string, more bool, err error) {
	depth, quoted := 0, false
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case quoted:
			quoted = c != '"'
		case c == '\\':
			i++
		case c == '"' && depth > 0:
			quoted = true
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == '.' && depth <= 0:
			return path[:i], path[i+1:], true, nil
		}
	}
	if depth != 0 || quoted {
		return "", "", false, errors.New("a ( or a quote has no end")
	}
	return path, "", false, nil
}

// pathSteps returns the steps of a checked path, with # for indexes and queries.
func pathSteps(path string) (steps []string) {
	for {
		step, rest, more, _ := cutStep(path)
		if strings.HasPrefix(step, "#(") || isIndex(step) {
			step = "#"
		}
		steps = append(steps, step)
		if !more {
			return steps
		}
		path = rest
	}
}

func isIndex(step string) bool {
	for i := range len(step) {
		if step[i] < '0' || step[i] > '9' {
			return false
		}
	}
	return step != ""
}
