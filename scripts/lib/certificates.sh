# shellcheck shell=bash
# Sourced by scripts that test TLS: an authority and certificates that it has signed, by openssl.

# authority FOLDER: makes FOLDER/authority.pem and its key.
authority() {
  mkdir -p "$1"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3 \
    -subj "/CN=the authority of ringwire's tests" -keyout "$1/authority.key" \
    -out "$1/authority.pem" -addext keyUsage=critical,keyCertSign 2>"$1/openssl.log" ||
    { cat "$1/openssl.log" >&2 && return 1; }
}

# certificate FOLDER NAME SUBJECT [KEY-OPTION...]: makes FOLDER/NAME.pem, which the authority of
# FOLDER has signed for localhost, 127.0.0.1 and ::1, and FOLDER/NAME.key. The key is one of P-256,
# or what the options of `openssl req` say.
certificate() {
  local folder=$1 name=$2 subject=$3
  shift 3
  [ $# -gt 0 ] || set -- -newkey ec -pkeyopt ec_paramgen_curve:P-256
  printf '%s\n' 'subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1' \
    'extendedKeyUsage = serverAuth, clientAuth' 'basicConstraints = critical, CA:FALSE' \
    >"$folder/$name.ext"
  {
    openssl req "$@" -nodes -subj "$subject" -keyout "$folder/$name.key" -out "$folder/$name.csr" &&
      openssl x509 -req -in "$folder/$name.csr" -CA "$folder/authority.pem" \
        -CAkey "$folder/authority.key" -CAcreateserial -days 2 -extfile "$folder/$name.ext" \
        -out "$folder/$name.pem"
  } 2>"$folder/openssl.log" || { cat "$folder/openssl.log" >&2 && return 1; }
}
