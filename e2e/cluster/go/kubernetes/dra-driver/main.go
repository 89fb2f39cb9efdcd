//go:debug default=go1.24

// The DRA driver that Kubernetes tests itself with: it publishes devices that do not exist.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/test/e2e/dra/test-driver/app"
)

func main() { os.Exit(cli.Run(app.NewCommand())) }
