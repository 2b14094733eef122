# The standard library, compiled by one process and by four.
cp -a /usr/lib/python3.11/{json,email,asyncio,unittest,logging,concurrent} /tmp/
cd /tmp
python3 -m compileall -q -f json email && find . -name '*.pyc' | LC_ALL=C sort
python3 -m compileall -f asyncio unittest
python3 -m compileall -q -j 4 -f . ; echo $?
find . -name '*.pyc' | LC_ALL=C sort | xargs sha256sum | sha256sum
