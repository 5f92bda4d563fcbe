package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"orrery/client"
)

// nodeBootstrapGroup is who a joining node is while it has only a token.
const nodeBootstrapGroup = "system:bootstrappers:kubeadm:default-node-token"

const tokenAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789"

// generateToken makes a random token: a public id, a dot, a secret.
func generateToken() string {
	out := make([]byte, 0, 23)
	for len(out) < 23 {
		if len(out) == 6 {
			out = append(out, '.')
		}
		var b [1]byte
		rand.Read(b[:])      // never fails
		if int(b[0]) < 252 { // a multiple of 36, so that no letter is likelier
			out = append(out, tokenAlphabet[b[0]%36])
		}
	}
	return string(out)
}

// secret is how a token is stored. The API server and the token cleaner read it.
func (t bootstrapToken) secret() *corev1.Secret {
	id, secret, _ := strings.Cut(t.Token, ".")
	data := map[string][]byte{
		bootstrapapi.BootstrapTokenIDKey:          []byte(id),
		bootstrapapi.BootstrapTokenSecretKey:      []byte(secret),
		bootstrapapi.BootstrapTokenExtraGroupsKey: []byte(strings.Join(t.Groups, ",")),
	}
	if t.Description != "" {
		data[bootstrapapi.BootstrapTokenDescriptionKey] = []byte(t.Description)
	}
	if t.TTL.Duration > 0 {
		data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(time.Now().UTC().Add(t.TTL.Duration).Format(time.RFC3339))
	}
	for _, u := range t.Usages {
		data[bootstrapapi.BootstrapTokenUsagePrefix+u] = []byte("true")
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: bootstrapapi.BootstrapTokenSecretPrefix + id},
		Type:       corev1.SecretTypeBootstrapToken,
		Data:       data,
	}
}

func storeToken(ctx context.Context, c *client.Client, t bootstrapToken) error {
	secrets := client.For[*corev1.Secret](c)
	_, err := secrets.Create(ctx, t.secret())
	if apierrors.IsAlreadyExists(err) {
		_, err = secrets.Update(ctx, t.secret())
	}
	return err
}

func tokenCommand() *cobra.Command {
	var kubeconfig string
	c := &cobra.Command{Use: "token", Short: "Manage bootstrap tokens"}
	c.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "/etc/kubernetes/admin.conf", "The kubeconfig file to use when talking to the cluster.")
	connect := func() (*client.Client, error) {
		cfg, err := client.LoadKubeconfig(kubeconfig)
		if err != nil {
			return nil, err
		}
		return client.New(cfg.As("kubeadm"))
	}
	c.AddCommand(tokenCreateCommand(connect), tokenListCommand(connect), tokenDeleteCommand(connect), &cobra.Command{
		Use: "generate", Short: "Generate and print a bootstrap token, but do not create it on the server", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Println(generateToken()) },
	})
	return c
}

func tokenCreateCommand(connect func() (*client.Client, error)) *cobra.Command {
	var t bootstrapToken
	var ttl time.Duration
	var printJoin bool
	c := &cobra.Command{
		Use: "create [token]", Short: "Create bootstrap tokens on the server", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				t.Token = args[0]
			}
			t.TTL = &metav1.Duration{Duration: ttl}
			if err := t.setDefaults(); err != nil {
				return err
			}
			for _, u := range t.Usages {
				if !slices.Contains(bootstrapapi.KnownTokenUsages, u) {
					return fmt.Errorf("invalid bootstrap token usage string: %q, valid usage options: %v", u, bootstrapapi.KnownTokenUsages)
				}
			}
			api, err := connect()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			_, err = client.For[*corev1.Secret](api).Get(ctx, metav1.NamespaceSystem, t.secret().Name)
			if err == nil {
				return fmt.Errorf("a token with id %q already exists", t.Token[:6])
			}
			if !apierrors.IsNotFound(err) {
				return err
			}
			if err := storeToken(ctx, api, t); err != nil {
				return err
			}
			if !printJoin {
				fmt.Println(t.Token)
				return nil
			}
			info, err := clusterInfo(ctx, api)
			if err != nil {
				return err
			}
			pin, err := info.pin()
			if err != nil {
				return err
			}
			fmt.Println(joinCommandLine(strings.TrimPrefix(info.cfg.Host, "https://"), t.Token, pin))
			return nil
		},
	}
	f := c.Flags()
	f.DurationVar(&ttl, "ttl", 24*time.Hour, "The duration before the token is automatically deleted (e.g. 1s, 2m, 3h). If set to '0', the token will never expire")
	f.StringSliceVar(&t.Usages, "usages", nil, "Describes the ways in which this token can be used. Options: [signing,authentication]")
	f.StringSliceVar(&t.Groups, "groups", nil, "Extra groups that this token will authenticate as when used for authentication.")
	f.StringVar(&t.Description, "description", "", "A human friendly description of how this token is used.")
	f.BoolVar(&printJoin, "print-join-command", false, "Instead of printing only the token, print the full 'kubeadm join' flag needed to join the cluster using the token.")
	return c
}

func tokenListCommand(connect func() (*client.Client, error)) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List bootstrap tokens on the server", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := connect()
			if err != nil {
				return err
			}
			list, err := client.For[*corev1.Secret](api).List(cmd.Context(), metav1.NamespaceSystem,
				metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken)})
			if err != nil || len(list.Items) == 0 {
				return err
			}
			w := tabwriter.NewWriter(os.Stdout, 10, 4, 3, ' ', 0)
			fmt.Fprintln(w, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tEXTRA GROUPS")
			for _, s := range list.Items {
				fmt.Fprintln(w, strings.Join(tokenRow(s), "\t"))
			}
			return w.Flush()
		},
	}
}

func tokenRow(s *corev1.Secret) []string {
	get := func(key string) string { return string(s.Data[key]) }
	left, expires := "<forever>", "<never>"
	if at, err := time.Parse(time.RFC3339, get(bootstrapapi.BootstrapTokenExpirationKey)); err == nil {
		left, expires = duration.ShortHumanDuration(time.Until(at)), at.Format(time.RFC3339)
		if time.Now().After(at) {
			left = "<invalid>"
		}
	}
	var usages []string
	for key, v := range s.Data {
		if u, ok := strings.CutPrefix(key, bootstrapapi.BootstrapTokenUsagePrefix); ok && string(v) == "true" {
			usages = append(usages, u)
		}
	}
	slices.Sort(usages)
	return []string{
		get(bootstrapapi.BootstrapTokenIDKey) + "." + get(bootstrapapi.BootstrapTokenSecretKey), left, expires,
		orNone(strings.Join(usages, ",")), orNone(get(bootstrapapi.BootstrapTokenDescriptionKey)), orNone(get(bootstrapapi.BootstrapTokenExtraGroupsKey)),
	}
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func tokenDeleteCommand(connect func() (*client.Client, error)) *cobra.Command {
	return &cobra.Command{
		Use: "delete [token-value] ...", Short: "Delete bootstrap tokens on the server", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := connect()
			if err != nil {
				return err
			}
			for _, a := range args {
				id, _, _ := strings.Cut(a, ".")
				if len(id) != 6 {
					return fmt.Errorf("given token %q does not match pattern %q or %q", a, bootstrapapi.BootstrapTokenIDPattern, bootstrapapi.BootstrapTokenPattern)
				}
				err := client.For[*corev1.Secret](api).Delete(cmd.Context(), metav1.NamespaceSystem, bootstrapapi.BootstrapTokenSecretPrefix+id, metav1.DeleteOptions{})
				if err != nil {
					return fmt.Errorf("failed to delete bootstrap token %q: %w", id, err)
				}
				fmt.Printf("bootstrap token %q deleted\n", id)
			}
			return nil
		},
	}
}
