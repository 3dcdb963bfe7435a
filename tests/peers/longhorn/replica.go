package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"time"

	"github.com/longhorn/longhorn-engine/pkg/backingfile"
	"github.com/longhorn/longhorn-engine/pkg/replica"
	"github.com/longhorn/longhorn-engine/pkg/types"
	"github.com/longhorn/longhorn-engine/pkg/util"
	diskutil "github.com/longhorn/longhorn-engine/pkg/util/disk"
	"github.com/longhorn/sparse-tools/sparse"
)

type session struct {
	server    *replica.Server
	directory string
	backing   *backingfile.BackingFile
}

// open makes a replica, or opens the one that is there.
func (s *session) open(r request) error {
	backing, err := backingfile.OpenBackingFile(r.Backing)
	if err != nil {
		return err
	}
	server := replica.NewServer(context.Background(), r.Directory, backing, diskutil.ReplicaSectorSize, !r.Counter,
		false, types.MaximumTotalSnapshotCount, 0, false)
	if err := server.Create(r.Size); err != nil {
		return err
	}
	if err := server.Open(false, 0); err != nil {
		return err
	}
	s.server, s.directory, s.backing = server, r.Directory, backing
	return nil
}

func (s *session) close() error {
	server := s.server
	s.server = nil
	return server.Close()
}

func (s *session) write(r request) error {
	data := make([]byte, r.Length)
	if r.Seed != 0 {
		stream := rand.NewChaCha8([32]byte{byte(r.Seed), byte(r.Seed >> 8), byte(r.Seed >> 16), byte(r.Seed >> 24)})
		_, _ = stream.Read(data)
	}
	_, err := s.server.WriteAt(data, r.Offset)
	return err
}

// purge folds the snapshots that are marked as removed into their children, leaves first, and the one below the head
// last, which is only freed of what the head hides. It returns what was done.
func (s *session) purge() ([]string, error) {
	done := []string{}
	disks := s.server.Replica().ListDisks()
	head := s.server.Replica().Info().Head
	var names, last []string
	for name, disk := range disks {
		switch {
		case !disk.Removed:
		case disk.Children[head]:
			last = append(last, name)
		default:
			names = append(names, name)
		}
	}
	depth := func(name string) (depth int) {
		for ; name != ""; name = disks[name].Parent {
			depth++
		}
		return depth
	}
	sort.Slice(names, func(a, b int) bool {
		if a, b := depth(names[a]), depth(names[b]); a != b {
			return a > b
		}
		return names[a] < names[b]
	})
	for _, name := range append(names, last...) {
		actions, err := s.server.PrepareRemoveDisk(name)
		if err != nil {
			return done, err
		}
		for _, action := range actions {
			source, target := filepath.Join(s.directory, action.Source), filepath.Join(s.directory, action.Target)
			switch action.Action {
			case replica.OpCoalesce:
				err = sparse.FoldFile(target, source, silent{})
			case replica.OpReplace:
				err = s.server.ReplaceDisk(action.Target, action.Source)
			case replica.OpRemove:
				err = s.server.RemoveDiffDisk(action.Source, false)
			case replica.OpPrune:
				err = sparse.PruneFile(source, target, silent{})
			default:
				err = fmt.Errorf("unknown action %q", action.Action)
			}
			if err != nil {
				return done, fmt.Errorf("%s %s: %w", action.Action, action.Source, err)
			}
			done = append(done, action.Action)
		}
	}
	return done, nil
}

type silent struct{}

func (silent) UpdateFileHandlingProgress(int, bool, error) {}

// hash reads the volume, and says how long it is.
func (s *session) hash() (any, error) {
	return hashOf(s.server.Replica())
}

// hashSnapshot reads a snapshot as a backup does, in a replica that is closed.
func hashSnapshot(r request) (any, error) {
	backing, err := backingfile.OpenBackingFile(r.Backing)
	if err != nil {
		return nil, err
	}
	opened, err := replica.NewReadOnly(context.Background(), r.Directory, snapshotFile(r.Name), backing)
	if err != nil {
		return nil, err
	}
	defer opened.CloseWithoutWritingMetaData()
	return hashOf(opened)
}

func hashOf(opened *replica.Replica) (any, error) {
	size, sum, buffer := opened.Info().Size, sha256.New(), make([]byte, 1<<20)
	for offset := int64(0); offset < size; {
		part := buffer[:min(int64(len(buffer)), size-offset)]
		clear(part)
		if _, err := opened.ReadAt(part, offset); err != nil {
			return nil, err
		}
		_, _ = sum.Write(part)
		offset += int64(len(part))
	}
	return map[string]any{"sha256": hex.EncodeToString(sum.Sum(nil)), "size": size}, nil
}

// checksum lets the engine compute the checksum of a snapshot and leave it beside the image. The engine takes a lock in
// /host, so the process moves below Root first, for good.
func checksum(r request) (any, error) {
	inside, err := filepath.Rel(r.Root, r.Directory)
	if err != nil {
		return nil, err
	}
	if err := syscall.Chroot(r.Root); err != nil {
		return nil, fmt.Errorf("chroot %s: %w", r.Root, err)
	}
	if err := os.Chdir("/" + inside); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	job := replica.NewSnapshotHashJob(ctx, cancel, r.Name, false)
	if err := job.Execute(); err != nil {
		return nil, err
	}
	return job.Checksum, nil
}

func snapshotFile(name string) string {
	return diskutil.GenerateSnapshotDiskName(name)
}

func now() string {
	return util.Now()
}
