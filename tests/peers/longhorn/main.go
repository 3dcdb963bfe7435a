// A program that does with replicas and backups what Longhorn does, by Longhorn's own code.
//
// It reads requests from stdin, a JSON object a line, and answers each with a line of JSON on stdout: {"ok": …} or
// {"error": "…"}. The engine's log goes to stderr.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/sirupsen/logrus"
)

type request struct {
	Do string

	// A replica: its directory, its size in bytes, a backing image that lies under it, whether it counts revisions.
	Directory string
	Size      int64
	Backing   string
	Counter   bool

	// A range of the volume, in bytes, and what is written there: 0 for zeros, else the seed of random bytes.
	Offset int64
	Length int64
	Seed   uint64

	// A snapshot, or a backup.
	Name string

	// A backup store, and a volume in it.
	Target      string
	Volume      string
	Snapshot    string
	Compression string
	BlockSize   string
	Labels      map[string]string
	Full        bool

	// A backup by its URL, the file it is restored to, and the backup that the file has already.
	URL  string
	File string
	Last string

	// What a checksum is computed below.
	Root string
}

func main() {
	logrus.SetOutput(os.Stderr)
	logrus.SetLevel(logrus.WarnLevel)
	session := &session{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		answer := map[string]any{}
		if done, err := session.serve(lines.Bytes()); err != nil {
			answer["error"] = err.Error()
		} else {
			answer["ok"] = done
		}
		if err := answers.Encode(answer); err != nil {
			os.Exit(1)
		}
	}
}

func (s *session) serve(line []byte) (any, error) {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, err
	}
	switch r.Do {
	case "open":
		return nil, s.open(r)
	case "close":
		return nil, s.close()
	case "write":
		return nil, s.write(r)
	case "discard":
		return s.server.UnmapAt(uint32(r.Length), r.Offset)
	case "snapshot":
		return nil, s.server.Snapshot(r.Name, true, now(), r.Labels)
	case "remove":
		return nil, s.server.MarkDiskAsRemoved(r.Name)
	case "purge":
		return s.purge()
	case "revert":
		return nil, s.server.Revert(snapshotFile(r.Name), now())
	case "expand":
		return nil, s.server.Expand(r.Size)
	case "disks":
		return s.server.Replica().ListDisks(), nil
	case "hash":
		return s.hash()
	case "hash-snapshot":
		return hashSnapshot(r)
	case "checksum":
		return checksum(r)
	case "backup":
		return s.backup(r)
	case "restore":
		return nil, restore(r)
	case "list":
		return list(r)
	case "inspect":
		return inspect(r)
	case "delete-backup":
		return nil, deleteBackup(r)
	}
	return nil, fmt.Errorf("unknown request %q", r.Do)
}
