# Walks over the whole root, and archives of it.
find / -xdev | LC_ALL=C sort | sha256sum
find / -xdev -printf '%p %y %m %U %G %n %l %s %T@\n' 2>&1 | grep -v '^/\(proc\|sys\|dev\|tmp\|\) ' | sed 's/^\(\S* d.*\) [0-9]* \([0-9.]*\)$/\1 \2/' | LC_ALL=C sort | sha256sum
tar c /usr/share/doc 2>/dev/null | tar t | wc -l
tar c --sort=name /usr/share/perl5 /usr/lib/git-core 2>/dev/null | sha256sum
ls -lR /etc
ls -la --time-style=full-iso /usr/bin | grep -v ' \.\.\?$' | sha256sum
du -s --apparent-size /usr/lib/python3.11
cp -a /usr/share/perl /tmp/perl && diff -r /usr/share/perl /tmp/perl && find /tmp/perl | wc -l
tar c -C /tmp perl | (mkdir /tmp/again && tar x -C /tmp/again) && diff -r /tmp/perl /tmp/again/perl && rm -r /tmp/perl /tmp/again && ls /tmp
