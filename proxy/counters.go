package proxy

import (
	"errors"
	"log/slog"
	"syscall"

	"github.com/vishvananda/netlink/nl"
)

// makeCounters makes the kernel's two named counters, which count what the
// rules drop and what comes for node ports on 127.0.0.1. It says whether rules
// may use them; not every kernel has nfacct.
//
// Upstream: pkg/proxy/util/nfacct, and pkg/proxy/iptables/proxier.go, where nfAcctCounters are made.
// Left out: their values among the metrics; `nfacct list` shows them.
func makeCounters(log *slog.Logger) bool {
	const (
		subsystem = 7 // NFNL_SUBSYS_ACCT
		create    = 0 // NFNL_MSG_ACCT_NEW
		attrName  = 1 // NFACCT_NAME
	)
	for _, name := range []string{counterLocalhost, counterInvalid} {
		req := nl.NewNetlinkRequest(subsystem<<8|create, syscall.NLM_F_CREATE|syscall.NLM_F_ACK)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: syscall.AF_UNSPEC, Version: nl.NFNETLINK_V0})
		req.AddData(nl.NewRtAttr(attrName, nl.ZeroTerminated(name)))
		_, err := req.Execute(syscall.NETLINK_NETFILTER, 0)
		if err != nil && !errors.Is(err, syscall.EBUSY) { // busy: it is there already
			log.Info("rules do without counters: the kernel has no nfacct", "err", err)
			return false
		}
	}
	return true
}
