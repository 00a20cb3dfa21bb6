package edit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// maxLine is the longest line of a script, in bytes: two paths of the greatest
// length fit.
const maxLine = 1 << 20

// Script runs the commands of a script, one a line, in order, and stops at the
// first that fails. name is the script's name for messages. It returns how many
// commands were run.
func (e *Editor) Script(name string, script io.Reader, commands []Command) (done int, err error) {
	warn := e.Warn
	defer func() { e.Warn = warn }()
	scan := bufio.NewScanner(script)
	scan.Buffer(nil, maxLine)
	line := 1
	for ; scan.Scan(); line++ {
		if e.Ctx.Err() != nil {
			return done, context.Cause(e.Ctx)
		}
		words, err := Words(scan.Text())
		if err != nil {
			return done, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		if len(words) == 0 {
			continue
		}
		i := slices.IndexFunc(commands, func(c Command) bool { return c.Name == words[0] })
		if i < 0 {
			return done, fmt.Errorf("%s:%d: %q is no command here", name, line, words[0])
		}
		e.Warn = func(err error) { warn(fmt.Errorf("%s:%d: %s: %w", name, line, words[0], err)) }
		switch err := commands[i].Run(e, words[1:]); {
		case e.Ctx.Err() != nil:
			return done, context.Cause(e.Ctx)
		case errors.Is(err, ErrReported):
			return done, err
		case err != nil:
			return done, fmt.Errorf("%s:%d: %s: %w", name, line, words[0], err)
		}
		done++
	}
	if err := scan.Err(); err != nil {
		return done, fmt.Errorf("%s:%d: %w", name, line, err)
	}
	return done, nil
}
