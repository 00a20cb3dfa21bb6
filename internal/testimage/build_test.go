package testimage

import (
	"testing"
)

// What the format of a configuration, and no more, may leave out.
const maxSkipped = 60

func TestBuildEveryConfig(t *testing.T) {
	names := map[string]bool{}
	for _, c := range Configs() {
		if names[c.Name] {
			t.Errorf("two configurations are called %s", c.Name)
		}
		names[c.Name] = true
		if testing.Short() && c.Name != "ext4" && c.Name != "64k" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			img := Build(t, t.TempDir(), c)
			if len(img.Skipped) > maxSkipped {
				t.Errorf("left out %d things: %q", len(img.Skipped), img.Skipped)
			}
			t.Logf("left out: %q", img.Skipped)
			switch c.Name {
			case "ext4": // has a link count that e2fsck does not like
				return
			case "nofiletype": // the kernel gives ".." a type all the same
				return
			case "externaljournal": // e2fsck would need the journal on a device
				return
			}
			if err := Run("e2fsck", "-fn", img.Path); err != nil {
				t.Errorf("a broken image: %v", err)
			}
		})
	}
}
