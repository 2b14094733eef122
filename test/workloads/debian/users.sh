# Other users and what they may do.
id; id user
su user -c 'id; cd; pwd; touch x; ls -l x | cut -c1-23; cat /etc/shadow; mkdir /root/x; kill -9 1; echo $?'
touch /tmp/mine; chown user:user /tmp/mine; chmod 640 /tmp/mine; stat -c '%U %G %a %F' /tmp/mine
su user -c 'echo more >>/tmp/mine; chmod 600 /tmp/mine; chown root /tmp/mine; chgrp tty /tmp/mine'
setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'id; cat /tmp/mine; ls /root'
setpriv --dump | grep -v '^Parent\|bounding'
mkdir -m 1777 /tmp/sticky; touch /tmp/sticky/root; su user -c 'rm -f /tmp/sticky/root; touch /tmp/sticky/a && rm /tmp/sticky/a && echo removed'
install -o user -g user -m 4755 /bin/true /tmp/suid; stat -c '%a' /tmp/suid
umask 077; touch /tmp/u; stat -c %a /tmp/u; mkdir /tmp/ud; stat -c %a /tmp/ud
mkdir -m 2755 /tmp/sgid; chgrp user /tmp/sgid; touch /tmp/sgid/f; stat -c %G /tmp/sgid/f
useradd -m -s /bin/sh other; id other; su other -c 'pwd; echo $SHELL'; groupadd -g 5000 g; usermod -aG g other; id other; getent passwd other; userdel -r other; id other
su - user -c 'echo $HOME $PWD $USER; umask'
chroot / /bin/echo chrooted; chroot --userspec=1000:1000 / id
