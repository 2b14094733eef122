# Six stages over some ten megabytes.
find /usr/share -type f -print0 | sort -z | xargs -0 cat | tr -s '[:space:]' '\n' | sort | uniq -c | LC_ALL=C sort -k1,1rn -k2 | head -100
find /usr/share -type f -print0 | sort -z | xargs -0 cat | gzip -9 | gunzip | tee >(wc -c >/tmp/count) | sha256sum
while ! [ -s /tmp/count ]; do :; done
cat /tmp/count
yes | head -c 10000000 | dd bs=7777 iflag=fullblock status=none | sha1sum
# Whoever writes to a pipe without a reader gets SIGPIPE.
yes | head -1
echo "${PIPESTATUS[*]}"
