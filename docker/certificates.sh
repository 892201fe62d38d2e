#!/bin/sh
# Certificates for the nodes of docker/cluster.yaml, in docker/tls/: an authority that signs for these three names only
# and whose key is then deleted. Run it again before they end, in ten years, and restart the nodes one after another.
set -eu
umask 077
cd "$(dirname "$0")"
if [ -e tls ]; then
    echo "docker/tls is there already; delete it to make new certificates" >&2
    exit 1
fi
draft=$(mktemp -d tls.XXXXXX)
trap 'rm -rf "$draft"' EXIT
days=3650
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days $days -subj "/CN=cxrsearch cluster" \
    -addext "keyUsage=critical,keyCertSign" -keyout "$draft/ca.key" -out "$draft/ca.pem" 2>/dev/null
for node in node-a node-b node-c; do
    mkdir "$draft/$node"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$node" \
        -keyout "$draft/$node/key.pem" -out "$draft/request" 2>/dev/null
    printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$node" >"$draft/extensions"
    openssl x509 -req -in "$draft/request" -CA "$draft/ca.pem" -CAkey "$draft/ca.key" -CAcreateserial -days $days \
        -extfile "$draft/extensions" -out "$draft/$node/cert.pem" 2>/dev/null
    cp "$draft/ca.pem" "$draft/$node/ca.pem"
done
rm -f "$draft/ca.key" "$draft/ca.srl" "$draft/request" "$draft/extensions"
mv "$draft" tls
trap - EXIT
echo "docker/tls: a certificate and key for each of node-a, node-b, node-c"
