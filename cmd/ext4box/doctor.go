package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"ext4box/blockdev"
	"ext4box/cmd/ext4box/internal/probe"
	"ext4box/sandbox"
)

func newDoctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [IMAGE]",
		Short: "Show what this machine offers, and what to do about what it lacks",
		Long: `Show what this machine offers to ext4box, and what to do about what it lacks.
The exit status is 1 when mounting is not possible, or only with
--sandbox=best-effort. IMAGE, or else the current
directory, is where direct I/O is tried. The line data-path tells whether the
kernel would move the data of files itself (fuse-iomap), or why it goes through
the server.`,
		Args: argCount(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := probe.Options{Dir: ".", Child: []string{"ext4box", "probe"}, Boxed: []string{"ext4box", "probe", "--boxed"}}
			if len(args) > 0 {
				o.File, _ = blockdev.ParseSpec(args[0])
			}
			return doctor(cmd, probe.All(o), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write a JSON array")
	return cmd
}

func doctor(cmd *cobra.Command, checks []probe.Check, asJSON bool) error {
	out := cmd.OutOrStdout()
	if asJSON {
		if err := printJSON(out, checks); err != nil {
			return err
		}
	}
	able := true
	for _, c := range checks {
		able = able && (c.Answer != probe.No || !c.Needed)
		if asJSON {
			continue
		}
		text := fmt.Sprintf("%-16s %-8s %s\n", c.Name, c.Answer, printable(c.Detail))
		if c.Advice != "" && c.Answer != probe.Yes {
			text += fmt.Sprintf("%25s %s\n", "->", c.Advice)
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
	}
	if !able {
		return errSilent
	}
	return nil
}

// newProbeCommand is doctor's other half, in a user namespace or in a box.
func newProbeCommand() *cobra.Command {
	var boxed bool
	cmd := &cobra.Command{
		Use: "probe", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if boxed {
				return sandbox.Probed(os.Stdout)
			}
			return probe.Child(os.Stdout)
		},
	}
	cmd.Flags().BoolVar(&boxed, "boxed", false, "enter a box")
	return cmd
}
