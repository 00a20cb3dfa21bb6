package edit

import (
	"errors"
	"strings"
)

// Words splits a line as a shell does: at blanks, unless they are quoted with ' or
// " or \; a # at the start of a word begins a comment. Nothing is expanded.
func Words(line string) (words []string, err error) {
	var word strings.Builder
	inWord := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case strings.IndexByte(" \t\r", c) >= 0:
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
			continue
		case c == '#' && !inWord:
			return words, nil
		case c == '\\':
			if i++; i == len(line) {
				return nil, errors.New("nothing follows the \\ at the end of the line")
			}
			word.WriteByte(line[i])
		case c == '\'':
			n := strings.IndexByte(line[i+1:], '\'')
			if n < 0 {
				return nil, errors.New("a ' has no other")
			}
			word.WriteString(line[i+1 : i+1+n])
			i += n + 1
		case c == '"':
			for i++; i < len(line) && line[i] != '"'; i++ {
				if line[i] == '\\' && i+1 < len(line) && strings.IndexByte("\"\\$`", line[i+1]) >= 0 {
					i++
				}
				word.WriteByte(line[i])
			}
			if i >= len(line) {
				return nil, errors.New("a \" has no other")
			}
		default:
			word.WriteByte(c)
		}
		inWord = true
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
