//go:build !linux

package volumes

import "errors"

// Elsewhere only simulated nodes have kubelets, and those mount nothing.
func mountTmpfs(string, string) error { return errors.ErrUnsupported }

func unmountBelow(string) error { return nil }
