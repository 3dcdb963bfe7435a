// An S3 server over a directory, which checks signatures and serves one account.
//
// The keys come from S3_ACCESS_KEY and S3_SECRET_KEY. A folder of the directory is a bucket. It ends when its stdin
// does, so that it never outlives the test that started it.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9000", "host and port")
	directory := flag.String("directory", ".", "where `objects` and `attributes` are, or are made")
	region := flag.String("region", "us-east-1", "the region that signatures are made for")
	certificate := flag.String("certificate", "", "file with a certificate, to serve https")
	key := flag.String("key", "", "file with its key")
	domain := flag.String("domain", "", "below which buckets are hosts")
	flag.Parse()
	if err := serve(*listen, *directory, *region, *domain, *certificate, *key); err != nil {
		log.Fatal(err)
	}
}

func serve(listen, directory, region, domain, certificate, key string) error {
	// The server changes its directory.
	for _, path := range []*string{&directory, &certificate, &key} {
		if *path != "" {
			absolute, err := filepath.Abs(*path)
			if err != nil {
				return err
			}
			*path = absolute
		}
	}
	objects, attributes := filepath.Join(directory, "objects"), filepath.Join(directory, "attributes")
	for _, path := range []string{objects, attributes} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	// Beside the objects, as not every file system has extended attributes.
	beside, err := meta.NewSideCar(attributes)
	if err != nil {
		return err
	}
	backend, err := posix.New(objects, beside, posix.PosixOpts{SideCarDir: attributes, Concurrency: 64})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return embedgw.RunVersityGW(ctx, backend, &embedgw.Config{
		RootUserAccess:    os.Getenv("S3_ACCESS_KEY"),
		RootUserSecret:    os.Getenv("S3_SECRET_KEY"),
		Region:            region,
		VirtualDomain:     domain,
		Ports:             []string{listen},
		MaxConnections:    256,
		MaxRequests:       128,
		MultipartMaxParts: 10000,
		CertFile:          certificate,
		KeyFile:           key,
		KeepAlive:         true,
		Quiet:             true,
	})
}
