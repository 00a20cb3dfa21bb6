package main

import "time"

// mountJobs mount and unmount a clean image. What is counted is the time of the command
// that does it; the loop device of the kernel's is there before.
func mountJobs() []series {
	of := func(image, suffix string, within time.Duration) series {
		return series{name: "mount-" + suffix, image: image, unmounted: true, chained: true, cost: 1, jobs: []job{
			{name: "mount-" + suffix, class: mounting, unit: "s", within: within,
				run: func(e *env, _ string) (float64, error) { return 0, e.system.mount() }},
			{name: "umount-" + suffix, class: mounting, unit: "s",
				run: func(e *env, _ string) (float64, error) { return 0, e.system.unmount() }},
		}}
	}
	return []series{
		of(imageClean8, "8GiB", 50*time.Millisecond),
		of(imageHuge, "16TiB", 200*time.Millisecond),
	}
}
