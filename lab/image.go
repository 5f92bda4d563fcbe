package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"orrery/deploy"
	"orrery/deploy/images"
	"orrery/deploy/node"
)

const (
	// NodeImage is the image of a node without its tag; each content has a tag of its own.
	NodeImage = "orrery/node"
	baseImage = "orrery/node-base"
	// debianImage is pulled where a registry answers, localDebian made where none does.
	debianImage  = "debian:trixie-slim"
	localDebian  = "orrery/debian:trixie-slim"
	debianMirror = "http://deb.debian.org/debian"
	// pullTimeout bounds the wait for a registry.
	pullTimeout = 90 * time.Second
)

// The programs on a node's path: the foreign ones, which hardly change, and Orrery's.
var (
	foreignPrograms = []string{"crictl", "etcdctl", "kubectl"}
	nodePrograms    = []string{"cri-logger", "kubeadm", "kubelet"}
)

// ensureNodeImage returns the reference of the node image that holds the programs of Cluster.Bin as they are now,
// and builds it when it is not there.
func (c *Cluster) ensureNodeImage(ctx context.Context) (string, error) {
	if c.Docker.DryRun != nil {
		return NodeImage + ":" + images.Tag, nil
	}
	sum, err := c.nodeImageSum()
	if err != nil {
		return "", err
	}
	ref := NodeImage + ":" + sum
	if _, err := c.Docker.Ask(ctx, "image", "inspect", "--format", "{{.Id}}", ref); err == nil {
		return ref, nil
	}
	base, err := c.ensureBaseImage(ctx)
	if err != nil {
		return "", err
	}
	iptables, err := c.Docker.Ask(ctx, "run", "--rm", "--network", "none", base, "cat", "/usr/share/iptables-rootfs.tar")
	if err != nil {
		return "", err
	}
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(c.writeContext(writer, []byte(iptables))) }()
	defer reader.Close()
	fmt.Fprintf(c.Out, "\n    building the node image %s\n%66s", ref, "")
	if err := c.Docker.Feed(ctx, reader, "build", "--quiet", "--build-arg", "BASE="+base, "--tag", ref, "--tag", NodeImage+":"+images.Tag, "-"); err != nil {
		return "", err
	}
	c.removeOldImages(ctx, ref)
	return ref, nil
}

// BuildImage makes the node image of the programs as they are now, which Start does by itself.
func (c *Cluster) BuildImage(ctx context.Context) error {
	if err := c.preflight(ctx); err != nil {
		return err
	}
	return c.runSteps(ctx, step{"Preparing the node image", func(ctx context.Context) error {
		_, err := c.ensureNodeImage(ctx)
		return err
	}})
}

// removeOldImages drops the node images of earlier builds. Docker refuses for those that a node still uses.
func (c *Cluster) removeOldImages(ctx context.Context, keep string) {
	refs, err := c.Docker.Lines(ctx, "images", "--format", "{{.Repository}}:{{.Tag}}", NodeImage)
	if err != nil {
		return
	}
	for _, ref := range refs {
		if ref != keep && ref != NodeImage+":"+images.Tag {
			_ = c.Docker.Do(ctx, "rmi", ref)
		}
	}
}

// nodeImageSum is a digest of all that goes into the node image.
func (c *Cluster) nodeImageSum() (string, error) {
	sum := sha256.New()
	files, err := contextFiles()
	if err != nil {
		return "", err
	}
	for _, f := range files {
		fmt.Fprintln(sum, f.name, len(f.data))
		sum.Write(f.data)
	}
	for _, name := range allPrograms() {
		f, err := os.Open(filepath.Join(c.Bin, name))
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s is not in %s: run `make build tools` first", name, c.Bin)
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, name)
		_, err = io.Copy(sum, f)
		f.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}

func allPrograms() []string {
	names := slices.Concat(foreignPrograms, nodePrograms)
	for _, i := range images.All {
		names = append(names, i.Programs...)
	}
	return names
}

// contextFile is a file of the build context that is carried in this program.
type contextFile struct {
	name string
	data []byte
}

// contextFiles are deploy/node's files, and the manifests that the node's user finds at home.
func contextFiles() ([]contextFile, error) {
	files := []contextFile{{"home/cni.yaml", deploy.CNI}, {"home/app.yaml", deploy.App}}
	err := fs.WalkDir(node.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := node.Files.ReadFile(name)
		files = append(files, contextFile{name, data})
		return err
	})
	return files, err
}

// writeContext writes the build context of deploy/node/Dockerfile as a tar.
func (c *Cluster) writeContext(w io.Writer, iptables []byte) error {
	out := tar.NewWriter(w)
	add := func(name string, mode int64, data []byte) error {
		if err := out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err := out.Write(data)
		return err
	}
	files, err := contextFiles()
	for _, f := range files {
		mode := int64(0o644)
		if bytes.HasPrefix(f.data, []byte("#!")) {
			mode = 0o755
		}
		if err == nil {
			err = add(f.name, mode, f.data)
		}
	}
	for folder, programs := range map[string][]string{"tools": foreignPrograms, "bin": nodePrograms} {
		for _, name := range programs {
			data, readErr := os.ReadFile(filepath.Join(c.Bin, name))
			err = errors.Join(err, readErr)
			if err == nil {
				err = add(path.Join(folder, name), 0o755, data)
			}
		}
	}
	for n, i := range images.All {
		var archive bytes.Buffer
		if err == nil {
			err = i.Write(&archive, c.Bin, iptables)
		}
		if err == nil {
			err = add(fmt.Sprintf("images/%s/%d-%s.tar", i.On, n, i.Name), 0o644, archive.Bytes())
		}
	}
	return errors.Join(err, out.Close())
}

// ensureBaseImage returns the image of Debian with a node's packages, and makes it when it is not there.
func (c *Cluster) ensureBaseImage(ctx context.Context) (string, error) {
	dockerfile, err := node.Files.ReadFile("Dockerfile.base")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(dockerfile)
	ref := baseImage + ":" + hex.EncodeToString(sum[:])[:12]
	if _, err := c.Docker.Ask(ctx, "image", "inspect", "--format", "{{.Id}}", ref); err == nil {
		return ref, nil
	}
	root, err := c.ensureDebian(ctx)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(c.Out, "\n    installing a node's packages on %s\n%66s", root, "")
	// The engine's own network: not every machine lets containers on Docker's default network resolve names.
	err = c.Docker.Feed(ctx, bytes.NewReader(dockerfile), "build", "--quiet", "--network", "host", "--build-arg", "ROOT="+root, "--tag", ref, "-")
	return ref, err
}

// ensureDebian returns an image of Debian trixie: a registry's, or else one made here by debootstrap.
func (c *Cluster) ensureDebian(ctx context.Context) (string, error) {
	for _, ref := range []string{debianImage, localDebian} {
		if _, err := c.Docker.Ask(ctx, "image", "inspect", "--format", "{{.Id}}", ref); err == nil {
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

// bootstrapDebian makes localDebian from Debian's packages.
func (c *Cluster) bootstrapDebian(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "orrery-debian-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	out, err := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "trixie", dir, debianMirror).CombinedOutput()
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
