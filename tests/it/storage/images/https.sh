# Runs a command in a network and a mount namespace of its own, where https://images.test has a public address:
#
#   unshare -n -m /bin/sh https.sh FOLDER trusted|unknown COMMAND...
#
# It serves FOLDER, redirects /moved to /disk.raw and /plain to http. With `trusted`, the system trusts the CA that
# made its certificate.
set -eu
directory=$1 ca=$2
shift 2
address=45.33.32.156
ip link set lo up
ip addr add "$address/32" dev lo
echo "$address images.test" >"$directory/hosts"
mount --bind "$directory/hosts" /etc/hosts
cd "$directory"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=Test CA" \
    -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=images.test \
    -keyout own.key -out own.csr 2>/dev/null
echo subjectAltName=DNS:images.test >own.ext
openssl x509 -req -in own.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile own.ext -out own.crt 2>/dev/null
if [ "$ca" = trusted ]; then
    mount --bind ca.crt /etc/ssl/certs/ca-certificates.crt
fi
mkfifo ready
/usr/bin/python3 - >ready <<'PYTHON' &
import http.server, ssl

class Handler(http.server.SimpleHTTPRequestHandler):
    places = {"/moved": "https://images.test/disk.raw", "/plain": "http://images.test/disk.raw"}

    def do_GET(self):
        if self.path not in self.places:
            return super().do_GET()
        self.send_response(302)
        self.send_header("Location", self.places[self.path])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("images.test", 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("own.crt", "own.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
PYTHON
server=$!
trap 'kill "$server"' EXIT
read -r _ <ready
"$@"
