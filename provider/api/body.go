package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"unicode/utf8"
)

// maxBody bounds a request. The largest that is legal is a secret of 500 KiB, sent twice: as text and in base64.
const maxBody = 2 << 20

// decode reads a JSON body into value. Fields that nobody knows are let through: old clients send some.
func decode(w http.ResponseWriter, r *http.Request, value any) error {
	body, err := readObject(w, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, value); err != nil {
		return malformed(err)
	}
	return nil
}

// readObject reads a body that looks like a JSON object. What is no UTF-8 would reach its reader as something else.
func readObject(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &requestError{http.StatusRequestEntityTooLarge, fmt.Sprintf("body has more than %d bytes: must be at most that", maxBody)}
	}
	if err != nil {
		return nil, badRequest("body cannot be read: %v", err)
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return nil, badRequest("body is empty: must be a JSON object")
	}
	if body[0] != '{' {
		return nil, badRequest("body begins with %q: must be a JSON object", body[0])
	}
	if !utf8.Valid(body) {
		return nil, badRequest("body is not UTF-8: must be a JSON object")
	}
	return body, nil
}

// malformed says what is wrong with a body in the words of those who write JSON.
func malformed(err error) error {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		return badRequest("%s is a JSON %s: must be %s", wrongType.Field, wrongType.Value, inJSON(wrongType.Type))
	}
	// The parser does not say which field it was in, but there is only one of bytes.
	var wrongCharacter base64.CorruptInputError
	if errors.As(err, &wrongCharacter) {
		return badRequest("rawValue is not base64 at character %d: must be the secret's bytes in standard base64 with padding", int64(wrongCharacter))
	}
	return badRequest("body is not JSON: %v: must be a JSON object", err)
}

// inJSON describes what a type of Go takes.
func inJSON(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return inJSON(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Uint64:
		return "a whole number from 0"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a string of base64"
		}
		return "a list"
	case reflect.Map:
		return "an object whose values are strings"
	}
	return "an object"
}
