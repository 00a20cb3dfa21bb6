package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// isTerminal tells whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// printable escapes what a terminal could take for a command: the names in an
// image are whatever its maker wanted them to be.
func printable(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if unprintable(r) {
			for _, c := range []byte(s[i : i+n]) {
				fmt.Fprintf(&b, `\%03o`, c)
			}
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// name is a string of the image in JSON, which knows only Unicode: a string that
// is none is a lossy text, and beside it the exact bytes in base64.
type name struct {
	Text  string
	Bytes []byte
}

func newName(s string) name {
	if utf8.ValidString(s) {
		return name{Text: s}
	}
	return name{Text: strings.ToValidUTF8(s, "\uFFFD"), Bytes: []byte(s)}
}

// jsonArray writes a list one element a line, as they come.
type jsonArray struct {
	w     io.Writer
	count int
}

func (a *jsonArray) add(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	text = escapeJSON(text)
	open := ",\n"
	if a.count == 0 {
		open = "[\n"
	}
	a.count++
	_, err = fmt.Fprintf(a.w, "%s%s", open, text)
	return err
}

func (a *jsonArray) end() error {
	text := "\n]\n"
	if a.count == 0 {
		text = "[]\n"
	}
	_, err := io.WriteString(a.w, text)
	return err
}

// printJSON writes one value, indented.
func printJSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(escapeJSON(text), '\n'))
	return err
}

// escapeJSON escapes what a terminal could take for a command, which can stand
// in strings only: encoding/json does so with ASCII control characters, but not
// with C1 ones (U+009B begins an escape sequence) and those that turn the
// direction of writing.
func escapeJSON(text []byte) []byte {
	dangerous := func(r rune) bool { return r >= utf8.RuneSelf && r != utf8.RuneError && !unicode.IsPrint(r) }
	if bytes.IndexFunc(text, dangerous) < 0 {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) {
		if !dangerous(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.Bytes()
}
