# A repository with a history, cloned, merged, rebased, packed.
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@localhost GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@localhost
export GIT_AUTHOR_DATE='2020-01-02T03:04:05Z' GIT_COMMITTER_DATE='2020-01-02T03:04:05Z'
mkdir /tmp/r && cd /tmp/r
git init -q -b main .
for i in $(seq 30); do mkdir -p d$((i % 5)); seq $((i * 50)) >d$((i % 5))/f$i; done
git add . && git commit -m 'First' && git status
for i in $(seq 10); do echo "$i" >>d1/f1; git commit -qam "Change $i"; done
git log --oneline --stat | head -40
git checkout -q -b side HEAD~5 && echo side >side && git add side && git commit -qm Side
git checkout -q main && git merge -m Merge side && git log --graph --oneline | head
git clone -q /tmp/r /tmp/c 2>&1 && git -C /tmp/c log -1 --format='%H %s' && diff -r --exclude=.git /tmp/r /tmp/c
git clone -q file:///tmp/r /tmp/f 2>&1 && git -C /tmp/f fsck 2>&1
cd /tmp/c && git checkout -q -b topic HEAD~3 && echo t >t && git add t && git commit -qm T && git rebase -q main && git log --oneline | head -3
git push -q origin topic 2>&1; git -C /tmp/r branch
git gc -q && git count-objects -v | grep -v size && git fsck && git diff --stat HEAD~4
git blame d1/f1 | tail -3; git grep -n 1499 | head; git stash list; git bundle create /tmp/b main 2>/dev/null && git bundle verify /tmp/b 2>&1 | tail -1
git archive HEAD | tar t | tail -3
git worktree add -q /tmp/w main~1 2>&1 && ls /tmp/w
