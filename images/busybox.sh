# A root with nothing but Debian's static busybox under the names of all its
# applets, and the few files in /etc that programs ask for.

build() {
  local root=$1/root busybox applet
  busybox=$(command -v busybox)
  mkdir -p "$root"/{bin,dev,etc,home,mnt,opt,proc,root,run,sbin,sys,tmp,usr/bin,usr/sbin,var/tmp,var/log}
  chmod 1777 "$root/tmp" "$root/var/tmp"
  chmod 700 "$root/root"
  ln -s ../run "$root/var/run"

  # One file; each applet is a link in the directory where busybox would install it.
  install -m 755 "$busybox" "$root/bin/busybox"
  for applet in $("$busybox" --list-full); do
    [[ $applet == bin/busybox || $applet == linuxrc ]] || ln -sf /bin/busybox "$root/$applet"
  done

  cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
user:x:1000:1000:user:/home/user:/bin/sh
END
  cat >"$root/etc/group" <<'END'
root:x:0:
daemon:x:1:
tty:x:5:
nogroup:x:65534:
user:x:1000:
END
  mkdir "$root/home/user"
  chown 1000:1000 "$root/home/user"
  echo vitrine >"$root/etc/hostname"
  printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\tvitrine\n' >"$root/etc/hosts"
  : >"$root/etc/resolv.conf"
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
  printf 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n' >"$root/etc/profile"

  tar --sort=name --mtime=@0 --numeric-owner -C "$root" -cf "$1/root.tar" .
}
