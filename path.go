package callhook

import (
	"errors"
	"fmt"
	"strings"

	"github.com/callhook-go/callhook/internal/jsonappend"
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
	if strings.ContainsFunc(path, isControl) {
		return fmt.Errorf("path %q has a line break or another control character in it", path)
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
		}
	}
	return nil
}

// checkQuery checks #(name=="text"): one comparison, no patterns, no nesting.
// It leaves no room for a text that gjson would cut in another place than
// cutStep does.
func checkQuery(q string) error {
	bad := fmt.Errorf(`%s is not a query: write #(name=="text") or #(name==1), with ==, !=, <, <=, > or >=, and no \ or " inside of the text`, q)
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
		if name != "" && (checkStep(step) != nil || strings.ContainsAny(step, `#"\%~`)) {
			return bad
		}
	}
	if text, ok := strings.CutPrefix(value, `"`); ok {
		if text, ok = strings.CutSuffix(text, `"`); !ok || strings.ContainsAny(text, `"\`) || strings.HasPrefix(text, "~") {
			return bad
		}
		return nil
	}
	if value != "true" && value != "false" && (!gjson.Valid(value) || gjson.Parse(value).Type != gjson.Number) {
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

// appendMember appends the JSON of what a checked path finds in m; null for nothing.
func appendMember(dst []byte, m map[string]any, path string) ([]byte, error) {
	name, below, more, _ := cutStep(path)
	value, ok := m[strings.ReplaceAll(name, `\`, "")]
	switch {
	case !ok:
		return append(dst, "null"...), nil
	case !more:
		return jsonappend.Any(dst, value)
	}
	raw, err := jsonappend.Any(nil, value)
	if err != nil {
		return dst, err
	}
	if found := gjson.GetBytes(raw, below); found.Exists() {
		return append(dst, found.Raw...), nil
	}
	return append(dst, "null"...), nil
}

// eachElement reports whether a checked path goes through all elements of an
// array, or all that match, so that it stands for an array.
func eachElement(path string) bool {
	for {
		step, rest, more, _ := cutStep(path)
		if strings.HasSuffix(step, "#") && !strings.HasSuffix(step, `\#`) {
			return true
		}
		if !more {
			return false
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
