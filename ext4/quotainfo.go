package ext4

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"ext4box/ext4/internal/buffer"
	"ext4box/ext4/internal/quota"
)

// QuotaKind says whose quota: a user's, a group's or a project's.
type QuotaKind = quota.Kind

// The kinds of quota.
const (
	UserQuota    = quota.User
	GroupQuota   = quota.Group
	ProjectQuota = quota.Project
)

// Quota is what somebody uses and may use. Space is in bytes; a limit of 0 is
// none; times are in seconds since 1970, 0 where the soft limit is not exceeded.
type Quota = quota.Record

// QuotaEnforced tells whether limits of any kind hold.
func (fs *FS) QuotaEnforced() bool { return fs.w != nil && fs.w.enforcing }

// Quota returns what a filesystem that is open for writing keeps about a user,
// group or project. ENOENT: there is nothing. ESRCH: this kind is not kept.
func (fs *FS) Quota(kind QuotaKind, id uint32) (Quota, error) {
	q, err := fs.keptQuota(kind)
	if err != nil {
		return Quota{}, err
	}
	if d := q.cache.Get(uint64(id)); d != nil {
		defer d.refs.Add(-1)
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.rec, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, rec, ok, err := q.file.Find(id)
	if err == nil && !ok {
		err = syscall.ENOENT
	}
	return rec, err
}

func (fs *FS) keptQuota(kind QuotaKind) (*quotaFile, error) {
	if fs.w == nil {
		return nil, syscall.EROFS
	}
	if kind >= quota.Kinds || fs.w.quotas[kind] == nil || fs.w.quotas[kind].off.Load() {
		return nil, fmt.Errorf("this filesystem does not keep that quota: %w", syscall.ESRCH)
	}
	return fs.w.quotas[kind], nil
}

// SetQuotaLimits sets the four limits of a user, group or project to those in
// limits. Who is beyond a soft limit has the time of grace from now on.
func (fs *FS) SetQuotaLimits(kind QuotaKind, id uint32, limits Quota) error {
	q, err := fs.keptQuota(kind)
	if err != nil {
		return err
	}
	d, err := fs.dquot(q, id)
	if err != nil {
		return err
	}
	if d == nil {
		return syscall.EUCLEAN
	}
	defer d.refs.Add(-1)
	return fs.changeQuota(q, quota.CreditsWrite, 0, func(tx buffer.Tx) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		r := &d.rec
		r.InodeHard, r.InodeSoft, r.SpaceHard, r.SpaceSoft = limits.InodeHard, limits.InodeSoft, limits.SpaceHard, limits.SpaceSoft
		now := uint64(time.Now().Unix())
		r.SpaceTime = graceFor(r.Space, r.SpaceSoft, r.SpaceTime, now+uint64(q.file.SpaceGrace))
		r.InodeTime = graceFor(r.Inodes, r.InodeSoft, r.InodeTime, now+uint64(q.file.InodeGrace))
		return q.file.Write(tx, d.at, r)
	})
}

// graceFor is until when a soft limit may be exceeded by who has so much.
func graceFor(has, soft, until, end uint64) uint64 {
	switch {
	case soft == 0 || has <= soft:
		return 0
	case until != 0:
		return until
	}
	return end
}

// tidyQuotas removes the records of those who have nothing any longer and no
// limits, so that a file does not grow with everybody who ever had something.
// Nothing else is going on. If it cannot be done they stay, which does no harm.
func (fs *FS) tidyQuotas() {
	for _, q := range fs.w.quotas {
		if q == nil || q.off.Load() {
			continue
		}
		for id := range q.idle {
			err := fs.changeQuota(q, quota.CreditsRemove, 0, func(tx buffer.Tx) error {
				_, r, ok, err := q.file.Find(id)
				if err != nil || !ok || r.Space|r.Inodes != 0 || r.Limited() {
					return err
				}
				return q.file.Remove(tx, id)
			})
			if errors.Is(err, syscall.EUCLEAN) {
				fs.setAsideQuota(q, err)
			}
			if err != nil {
				break
			}
		}
	}
}
