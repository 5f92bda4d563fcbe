package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	// debianImage is pulled where a registry answers, localDebian made where none does.
	debianImage = "debian:trixie-slim"
	localDebian = "orrery/debian:trixie-slim"
	// pullTimeout bounds the wait for a registry.
	pullTimeout = 90 * time.Second
)

// ensureDebian returns an image of Debian trixie: a registry's, or else one made here by debootstrap.
func (c *Cluster) ensureDebian(ctx context.Context) (string, error) {
	for _, ref := range []string{debianImage, localDebian} {
		if c.hasImage(ctx, ref) {
			return ref, nil
		}
	}
	fmt.Fprintf(c.Out, "\n    pulling %s", debianImage)
	limited, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	pullErr := c.Docker.Do(limited, "pull", "--quiet", debianImage)
	if pullErr == nil {
		return debianImage, nil
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	fmt.Fprint(c.Out, ": no registry answers, so debootstrap makes it")
	if _, err := exec.LookPath("debootstrap"); err != nil || os.Geteuid() != 0 {
		return "", fmt.Errorf("no registry gives %s (%w), and to make it here takes root and the program debootstrap", debianImage, pullErr)
	}
	return localDebian, c.bootstrapDebian(ctx)
}

// bootstrapDebian makes localDebian from the packages of debootstrap's own mirror.
func (c *Cluster) bootstrapDebian(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "orrery-debian-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	out, err := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "trixie", dir).CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("debootstrap: %w: %s", err, lines[len(lines)-1])
	}
	reader, writer := io.Pipe()
	defer reader.Close()
	pack := exec.CommandContext(ctx, "tar", "--create", "--directory", dir, "--exclude=./var/cache/apt/archives/*.deb", ".")
	pack.Stdout = writer
	if err := pack.Start(); err != nil {
		return err
	}
	go func() { writer.CloseWithError(pack.Wait()) }()
	return c.Docker.Feed(ctx, reader, "import", "-", localDebian)
}
