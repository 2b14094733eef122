# Many short processes, one after the other and at once.
for i in $(seq 300); do /bin/true; done
echo $?
for i in $(seq 40); do (exit "$i") & pids="$pids $!"; done
for p in $pids; do wait "$p"; echo -n "$? "; done
echo
seq 200 | xargs -P 8 -n 5 sh -c 'echo $#' sh | sort | uniq -c
timeout 0.2 sleep 60
echo "timeout $?"
