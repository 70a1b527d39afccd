package settings

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Mistake is what every wrong setting is reported as: "NAME is VALUE: must be LEGAL". Text is quoted, and passwords in
// addresses are left out.
// Legal and args are those of fmt.Errorf.
func Mistake(name string, value any, legal string, args ...any) error {
	text := show(value)
	if reflect.ValueOf(value).Kind() == reflect.String {
		text = strconv.Quote(text)
	}
	return fmt.Errorf("%s is %s: must be %w", name, text, fmt.Errorf(legal, args...))
}

// Check compares the settings of a struct with their legal values and joins a mistake for each that is none of them.
func Check(spec any) error {
	var mistakes []error
	for _, f := range fields(spec) {
		if f.legal == "" || f.standard == "" && f.value.IsZero() {
			continue
		}
		for _, value := range f.elements() {
			if !legal(f.legal, value) {
				mistakes = append(mistakes, Mistake(f.name, value.Interface(), "%s", f.form()))
			}
		}
	}
	return errors.Join(mistakes...)
}

// elements are the values of a list, or the one value of anything else.
func (f field) elements() []reflect.Value {
	if f.value.Kind() != reflect.Slice {
		return []reflect.Value{f.value}
	}
	var all []reflect.Value
	for i := range f.value.Len() {
		all = append(all, f.value.Index(i))
	}
	return all
}

// form says in words what the setting may be.
func (f field) form() string {
	words := strings.Split(f.legal, "|")
	switch {
	case len(words) > 1:
		last := len(words) - 1
		return strings.Join(words[:last], ", ") + " or " + words[last]
	case f.legal != "":
		return f.legal
	}
	switch f.value.Interface().(type) {
	case bool:
		return "true or false"
	case slog.Level:
		return "debug, info, warn or error"
	case time.Duration:
		return "a duration"
	}
	return "of the form " + f.value.Type().String()
}

// allowsZero reports whether zero is a legal value and so differs from a value that was left out.
func (f field) allowsZero() bool {
	return f.legal != "" && f.value.Kind() != reflect.Slice && legal(f.legal, f.value)
}

// legal reports whether a value is among those that a tag allows. A tag that cannot be read is a mistake of the program.
func legal(tag string, value reflect.Value) bool {
	if value.Kind() == reflect.String {
		return slices.Contains(strings.Split(tag, "|"), value.String())
	}
	low, high, bounded := strings.Cut(tag, " to ")
	if !bounded {
		low = strings.TrimPrefix(tag, "at least ")
	}
	// In this form a float that is not a number is not legal either.
	return compare(value, low) >= 0 && (!bounded || compare(value, high) <= 0)
}

// compare orders a value and a bound.
func compare(value reflect.Value, bound string) int {
	var order int
	var err error
	switch {
	case value.Type() == reflect.TypeFor[time.Duration]():
		var d time.Duration
		d, err = time.ParseDuration(bound)
		order = cmp.Compare(value.Int(), int64(d))
	case value.CanInt():
		var n int64
		n, err = strconv.ParseInt(bound, 10, 64)
		order = cmp.Compare(value.Int(), n)
	case value.CanUint():
		var n uint64
		n, err = strconv.ParseUint(bound, 10, 64)
		order = cmp.Compare(value.Uint(), n)
	case value.CanFloat():
		var n float64
		n, err = strconv.ParseFloat(bound, 64)
		order = cmp.Compare(value.Float(), n) // less than every number, if it is none
	default:
		err = fmt.Errorf("%s has no order", value.Type())
	}
	if err != nil {
		panic(fmt.Sprintf("settings: the bound %q: %v", bound, err))
	}
	return order
}

// parseDuration reads whole seconds and Go's durations.
func parseDuration(text string) (time.Duration, error) {
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	return time.ParseDuration(text)
}
