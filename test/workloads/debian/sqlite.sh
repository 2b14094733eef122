# Ten thousand inserts each in its own transaction and in one, with a log written ahead.
sqlite3 /tmp/a.db 'pragma journal_mode=wal; pragma synchronous=normal; create table t(a integer primary key, b text);'
(echo 'pragma synchronous=normal;'; for i in $(seq 10000); do echo "insert into t values($i, hex($i));"; done) | sqlite3 /tmp/a.db
(echo 'begin;'; for i in $(seq 10001 20000); do echo "insert into t values($i, hex($i));"; done; echo 'commit;') | sqlite3 /tmp/a.db
sqlite3 /tmp/a.db 'select count(*), sum(a), max(b) from t; pragma integrity_check; pragma journal_mode;'
# Several writers at once.
for j in 1 2 3 4; do (echo '.timeout 30000'; for i in $(seq 100); do echo "insert into t(b) values('$j');"; done) | sqlite3 /tmp/a.db & done; wait
sqlite3 /tmp/a.db "select b, count(*) from t where b in ('1','2','3','4') group by b"
sqlite3 /tmp/a.db 'pragma wal_checkpoint(truncate); pragma journal_mode=delete; vacuum; create index i on t(b); select count(distinct b) from t; explain query plan select * from t where b = 3'
sqlite3 /tmp/a.db "delete from t where a > 20000" .dump | sha256sum
