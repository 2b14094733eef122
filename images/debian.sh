# A small Debian bookworm with what the workloads run: interpreters, a
# compiler, git, a database, process tools. Without manuals and translations.

build() {
  local work=$1 sources=() apt
  apt=$work/apt.conf
  # As this machine reaches the archive: its sources for bookworm, if it has
  # any, and its proxies.
  while IFS= read -r f; do sources+=("$f"); done < <(
    grep -lsE '(^|[[:space:]])bookworm([[:space:]]|$)' /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}
  )
  apt-config dump | grep -E '^Acquire::(http|https)::' >"$apt" || true

  mmdebstrap --quiet --mode=root --variant=minbase --format=tar --skip=output/dev \
    --aptopt="$apt" \
    --include=bash,coreutils,findutils,gcc,git,iproute2,libc6-dev,make,perl,procps,python3,sqlite3,strace,util-linux \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook='chroot "$1" useradd -m -u 1000 -s /bin/bash user' \
    --customize-hook='echo vitrine >"$1/etc/hostname"' \
    --customize-hook='printf "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\tvitrine\n" >"$1/etc/hosts"' \
    --customize-hook=': >"$1/etc/resolv.conf"' \
    --customize-hook='rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99mmdebstrap' \
    bookworm "$work/root.tar" "${sources[@]}"
  rm "$apt"
  mkdir "$work/root"
  tar --numeric-owner -C "$work/root" -xpf "$work/root.tar"
  # mmdebstrap leaves out /dev itself too.
  mkdir "$work/root/dev"
  tar --numeric-owner -C "$work/root" -rf "$work/root.tar" ./dev
}
