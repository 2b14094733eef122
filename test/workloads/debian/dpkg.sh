# Debian's package tools over their databases.
dpkg -l
dpkg -L coreutils | wc -l
dpkg -S /bin/ls
dpkg --verify coreutils bash 2>&1
apt-get --version
apt-cache policy bash 2>/dev/null
apt-cache stats 2>/dev/null | head -5
dpkg-query -W -f '${Package} ${Version} ${Architecture}\n' | sha256sum
# Pack, install and remove one of our own.
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/sample
echo text >/tmp/p/usr/share/sample/file
printf 'Package: sample\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@localhost>\nDescription: a sample\n' >/tmp/p/DEBIAN/control
dpkg-deb --build --root-owner-group /tmp/p /tmp/sample.deb
dpkg -i /tmp/sample.deb
cat /usr/share/sample/file
dpkg -s sample
dpkg -P sample
ls /usr/share/sample
