# One tracer's view: the calls of programs, of their children, of one that runs already.
strace -f -o /tmp/out sh -c 'true; /bin/true; exit 3'; echo $?
grep -c 'execve(' /tmp/out; tail -1 /tmp/out | sed 's/^[0-9]* *//'
strace -e trace=openat,write -o /tmp/out sed p /etc/hostname >/tmp/o; sed 's/0x[0-9a-f]*/P/' /tmp/out
strace -c -o /tmp/out ls / >/dev/null; tail -1 /tmp/out | awk '{ print $NF }'
sleep 100 & p=$!
while ! grep -q 'State.*S' /proc/$p/status; do :; done
strace -p $p -o /tmp/out 2>/dev/null & s=$!
while ! grep -q 'TracerPid:.[1-9]' /proc/$p/status; do :; done
kill $p; wait $p 2>/dev/null; echo $?; wait $s; tail -1 /tmp/out
sleep 100 & p=$!
while ! grep -q 'State.*S' /proc/$p/status; do :; done
strace -p $p -o /tmp/out 2>/dev/null & s=$!
while ! grep -q 'TracerPid:.[1-9]' /proc/$p/status; do :; done
kill -TERM $s; wait $s; echo $?; grep TracerPid /proc/$p/status; kill -0 $p && echo alive; kill $p
strace -e inject=unlinkat:error=EPERM -o /dev/null rm /tmp/out; echo $?
strace -f -c -o /tmp/out python3 -c 'import threading; [threading.Thread(target=print, args=(1,)).start() for _ in range(5)]'; tail -1 /tmp/out | awk '{ print $NF }'
