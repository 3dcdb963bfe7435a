package main

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/longhorn/backupstore"
	_ "github.com/longhorn/backupstore/s3"
	_ "github.com/longhorn/backupstore/vfs"
	lhbackup "github.com/longhorn/go-common-libs/backup"
	"github.com/longhorn/longhorn-engine/pkg/replica"
)

// How long a backup or its restore may take; the tests' have some megabytes.
const patience = time.Minute

// backup writes a snapshot of the replica that is open, as the engine does, and waits for the end.
func (s *session) backup(r request) (any, error) {
	// The engine takes the directory it is in for the replica.
	if err := os.Chdir(s.directory); err != nil {
		return nil, err
	}
	status := replica.NewBackup(r.Name, r.Volume, r.Snapshot, s.backing)
	parameters := map[string]string{}
	if r.BlockSize != "" {
		parameters[lhbackup.LonghornBackupParameterBackupBlockSize] = r.BlockSize
	}
	if r.Full {
		parameters[lhbackup.LonghornBackupParameterBackupMode] = string(lhbackup.LonghornBackupModeFull)
	}
	incremental, err := backupstore.CreateDeltaBlockBackup(r.Name, &backupstore.DeltaBackupConfig{
		BackupName: r.Name,
		Volume: &backupstore.Volume{
			Name:              r.Volume,
			Size:              s.server.Replica().Info().Size,
			CreatedTime:       now(),
			CompressionMethod: r.Compression,
			DataEngine:        string(backupstore.DataEngineV1),
		},
		Snapshot:        &backupstore.Snapshot{Name: r.Snapshot, CreatedTime: now()},
		DestURL:         r.Target,
		DeltaOps:        status,
		Labels:          r.Labels,
		ConcurrentLimit: 2,
		Parameters:      parameters,
	})
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		switch {
		case status.Error != "":
			return nil, errors.New(status.Error)
		// The snapshot is closed after everything else.
		case status.State == replica.ProgressStateComplete && !status.IsOpened:
			return map[string]any{"url": status.BackupURL, "incremental": incremental}, nil
		}
	}
	return nil, fmt.Errorf("no backup after %s: %d %%", patience, status.Progress)
}

// restore writes a backup into a file, or what differs from the backup that the file has.
func restore(r request) error {
	operations := &restoring{done: make(chan error, 1), stop: make(chan struct{})}
	config := &backupstore.DeltaRestoreConfig{
		BackupURL:       r.URL,
		DeltaOps:        operations,
		LastBackupName:  r.Last,
		Filename:        r.File,
		ConcurrentLimit: 2,
	}
	start := backupstore.RestoreDeltaBlockBackup
	if r.Last != "" {
		start = backupstore.RestoreDeltaBlockBackupIncrementally
	}
	if err := start(context.Background(), config); err != nil {
		return err
	}
	select {
	case err := <-operations.done:
		return errors.Join(err, unlocked(r.URL))
	case <-time.After(patience):
		return fmt.Errorf("not restored after %s", patience)
	}
}

// unlocked waits until the store is free: a restore gives its lock back after it has said that it is done.
func unlocked(url string) error {
	_, volume, target, err := backupstore.DecodeBackupURL(url)
	if err != nil {
		return err
	}
	driver, err := backupstore.GetBackupStoreDriver(target)
	if err != nil {
		return err
	}
	sum := sha512.Sum512([]byte(volume))
	layers := hex.EncodeToString(sum[:2])
	locks := filepath.Join(backupstore.GetBackupstoreBase(), "volumes", layers[:2], layers[2:], volume, "locks")
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		// A folder without a file is none in an object store.
		if there, err := driver.List(locks); err != nil || len(there) == 0 {
			return nil
		}
	}
	return fmt.Errorf("still locked after %s", patience)
}

type restoring struct {
	done chan error
	stop chan struct{}
}

func (*restoring) OpenVolumeDev(name string) (*os.File, string, error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	return file, name, err
}

func (*restoring) CloseVolumeDev(file *os.File) error {
	return file.Close()
}

func (r *restoring) UpdateRestoreStatus(_ string, progress int, err error) {
	if err != nil || progress == backupstore.PROGRESS_PERCENTAGE_BACKUP_TOTAL {
		select {
		case r.done <- err:
		default:
		}
	}
}

func (r *restoring) Stop()                      {}
func (r *restoring) GetStopChan() chan struct{} { return r.stop }

func list(r request) (any, error) {
	return backupstore.List(r.Volume, r.Target, false)
}

// inspect says what the store has of a backup and its volume.
func inspect(r request) (any, error) {
	backup, err := backupstore.InspectBackup(r.URL)
	if err != nil {
		return nil, err
	}
	volume, err := backupstore.InspectVolume(r.URL)
	return map[string]any{"backup": backup, "volume": volume}, err
}

// deleteBackup removes a backup, and the blocks that no other one has.
func deleteBackup(r request) error {
	return backupstore.DeleteDeltaBlockBackup(r.URL)
}
