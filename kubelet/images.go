package kubelet

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ensureImage makes sure that a container's image is here and returns it; or the
// reason that the container's status gets, with the error behind it.
//
// Upstream: pkg/kubelet/images/image_manager.go, EnsureImageExists.
// Left out: image volumes, credential provider plugins, pull records.
func (k *Kubelet) ensureImage(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (*cri.Image, string, error) {
	name := withTag(c.Image)
	image, err := k.imageStatus(ctx, name)
	if err != nil {
		err = plain(err)
		msg := fmt.Sprintf("Failed to inspect image %q: %v", name, err)
		k.containerEvent(pod, c.Name, corev1.EventTypeWarning, "InspectFailed", msg)
		return nil, errImageInspect, errors.New(msg)
	}
	if image != nil && c.ImagePullPolicy != corev1.PullAlways {
		k.containerEvent(pod, c.Name, corev1.EventTypeNormal, "Pulled",
			fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", name))
		return image, "", nil
	}
	if c.ImagePullPolicy == corev1.PullNever {
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", name)
		k.containerEvent(pod, c.Name, corev1.EventTypeWarning, errImageNeverPull, msg)
		return nil, errImageNeverPull, errors.New(msg)
	}
	return k.pullImage(ctx, pod, c, name)
}

// pullImage pulls, unless the last failure is too fresh.
func (k *Kubelet) pullImage(ctx context.Context, pod *corev1.Pod, c *corev1.Container, name string) (*cri.Image, string, error) {
	key := string(pod.UID) + "_" + name
	failed := k.lastPull(key)
	if left, _ := k.pulls.remaining(key, failed.at); left > 0 && failed.err != nil {
		msg := fmt.Sprintf("Back-off pulling image %q", name)
		k.containerEvent(pod, c.Name, corev1.EventTypeNormal, "BackOff", msg)
		return nil, imagePullBackOff, fmt.Errorf("%s: %s: %w", msg, errImagePull, failed.err)
	}
	k.containerEvent(pod, c.Name, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", name))
	asked := time.Now()
	release, err := k.pullTurn(ctx)
	if err != nil {
		return nil, errImagePull, err
	}
	defer release()
	began := time.Now()
	if err := k.tryPull(ctx, pod, name); err != nil {
		if ctx.Err() != nil {
			return nil, errImagePull, ctx.Err()
		}
		err = plain(err)
		k.pulls.next(key, time.Now())
		k.notePull(key, err)
		k.containerEvent(pod, c.Name, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", name, err))
		return nil, errImagePull, err
	}
	k.notePull(key, nil)
	image, err := k.imageStatus(ctx, name)
	if err != nil || image == nil {
		return nil, errImageInspect, fmt.Errorf("pulled image %q is not there: %w", name, err)
	}
	k.containerEvent(pod, c.Name, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		name, time.Since(began).Truncate(time.Millisecond), time.Since(asked).Truncate(time.Millisecond), image.Size))
	return image, "", nil
}

// tryPull pulls with each credential that the pod has for the registry, or with none.
func (k *Kubelet) tryPull(ctx context.Context, pod *corev1.Pod, name string) error {
	logins := k.pullSecrets(ctx, pod, name)
	if len(logins) == 0 {
		logins = []*cri.AuthConfig{nil}
	}
	var errs []error
	for _, login := range logins {
		_, err := k.images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}, Auth: login})
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// pullTurn waits for the turn to pull; by default one image is pulled at a time.
func (k *Kubelet) pullTurn(ctx context.Context) (release func(), err error) {
	if !*k.cfg.Settings.SerializeImagePulls {
		return func() {}, nil
	}
	select {
	case k.pulling <- struct{}{}:
		return func() { <-k.pulling }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// failedPull is the last failure of an image for a pod.
type failedPull struct {
	err error
	at  time.Time
}

func (k *Kubelet) lastPull(key string) failedPull {
	k.pullMu.Lock()
	defer k.pullMu.Unlock()
	return k.pullErrors[key]
}

func (k *Kubelet) notePull(key string, err error) {
	k.pullMu.Lock()
	defer k.pullMu.Unlock()
	if err == nil {
		delete(k.pullErrors, key)
		return
	}
	k.pullErrors[key] = failedPull{err, time.Now()}
}

// imageStatus is an image that is here, or nil.
func (k *Kubelet) imageStatus(ctx context.Context, name string) (*cri.Image, error) {
	resp, err := k.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
	if err != nil {
		return nil, err
	}
	return resp.GetImage(), nil
}

// withTag adds the tag that an image name without one means.
func withTag(image string) string {
	if base := image[strings.LastIndex(image, "/")+1:]; !strings.ContainsAny(base, ":@") {
		return image + ":latest"
	}
	return image
}

// pullSecrets is the logins that the pod's imagePullSecrets hold for an image's registry.
//
// Upstream: pkg/credentialprovider/keyring.go, BasicDockerKeyring.
// Left out: wildcards in registry names, .dockercfg.
func (k *Kubelet) pullSecrets(ctx context.Context, pod *corev1.Pod, image string) []*cri.AuthConfig {
	var out []*cri.AuthConfig
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := k.objects.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			k.eventf(pod, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
			continue
		}
		var file struct {
			Auths map[string]struct{ Username, Password, Auth string }
		}
		if err := json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &file); err != nil {
			k.log.Warn("Image pull secret is not valid", "key", ref.Name, "err", err)
			continue
		}
		for registry, login := range file.Auths {
			registry = strings.TrimPrefix(strings.TrimPrefix(registry, "https://"), "http://")
			if !strings.HasPrefix(image, strings.TrimSuffix(registry, "/")+"/") {
				continue
			}
			if raw, err := base64.StdEncoding.DecodeString(login.Auth); err == nil && login.Username == "" {
				login.Username, login.Password, _ = strings.Cut(string(raw), ":")
			}
			out = append(out, &cri.AuthConfig{Username: login.Username, Password: login.Password})
		}
	}
	return out
}
