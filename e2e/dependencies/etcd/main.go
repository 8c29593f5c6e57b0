// etcd as published in its Go module, newer than the package of the operating system.
//
// `go install …/etcd/server/v3@version` is refused because the module replaces its sibling modules with local
// folders. This module uses the published siblings instead, and go.sum pins them. It changes no behaviour.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
