// The agent of Consul, as published in its Go module: what consul-template reads, for the benchmark.
//
// `go install github.com/hashicorp/consul@version` is refused because the module replaces its sibling modules with
// local folders. This module uses the published siblings instead, and go.sum pins them. Of Consul's commands it has
// `agent` alone: others do not build with the siblings that the version names. It changes no behaviour. The version is of
// the newest line under the Mozilla Public License whose siblings the Go proxy has.
package main

import (
	"fmt"
	"os"

	mcli "github.com/mitchellh/cli"

	"github.com/hashicorp/consul/command/agent"
	"github.com/hashicorp/consul/command/cli"
	"github.com/hashicorp/consul/version"
)

func main() {
	if len(os.Args) < 2 || os.Args[1] != "agent" {
		fmt.Println("Consul v" + version.Version)
		return
	}
	ui := &cli.BasicUI{BasicUi: mcli.BasicUi{Writer: os.Stdout, ErrorWriter: os.Stderr}}
	os.Exit(agent.New(ui).Run(os.Args[2:]))
}
