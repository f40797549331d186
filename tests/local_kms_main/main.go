// Command local_kms_main serves local-kms on 127.0.0.1 alone, which its own command cannot.
package main

import (
	"log"
	"net"
	"net/http"
	"os"

	kms "github.com/nsmithuk/local-kms/src"
	"github.com/nsmithuk/local-kms/src/config"
	"github.com/nsmithuk/local-kms/src/data"
)

func main() {
	config.AWSAccountId = "111122223333"
	config.AWSRegion = os.Getenv("KMS_REGION")
	config.DatabasePath = os.Getenv("KMS_DATA_PATH")
	database := data.NewDatabase(config.DatabasePath)
	defer database.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("started on %s", listener.Addr())
	log.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kms.HandleRequest(w, r, database)
	})))
}
