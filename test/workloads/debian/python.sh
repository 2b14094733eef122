# A suite of unit tests over what Python does with the system.
cat >/tmp/test_system.py <<'END'
import asyncio, concurrent.futures, ctypes, fcntl, glob, mmap, multiprocessing, os, pathlib, pty, queue, resource, select, selectors, shutil
import signal, socket, sqlite3, struct, subprocess, sys, tempfile, threading, time, unittest, zlib

class Subprocesses(unittest.TestCase):
    def test_output(self):
        self.assertEqual(subprocess.check_output(["sh", "-c", "cat; echo done"], input=b"x" * 300000), b"x" * 300000 + b"done\n")
    def test_status(self):
        self.assertEqual(subprocess.call("exit 5", shell=True), 5)
        self.assertEqual(subprocess.call("kill -TERM $$", shell=True), -signal.SIGTERM)
    def test_missing(self):
        with self.assertRaises(FileNotFoundError): subprocess.run(["/nonexistent"])
        with self.assertRaises(PermissionError): subprocess.run(["/etc/passwd"])
    def test_timeout(self):
        with self.assertRaises(subprocess.TimeoutExpired): subprocess.run(["sleep", "60"], timeout=0.1)
    def test_pipeline(self):
        a = subprocess.Popen(["seq", "1000"], stdout=subprocess.PIPE)
        b = subprocess.Popen(["wc", "-l"], stdin=a.stdout, stdout=subprocess.PIPE)
        a.stdout.close()
        self.assertEqual(b.communicate()[0], b"1000\n")
        self.assertEqual(a.wait(), 0)
    def test_session(self):
        out = subprocess.check_output([sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid(), os.getcwd(), os.environ['A'])"],
                                      start_new_session=True, cwd="/usr", env={"A": "b"}, text=True)
        self.assertEqual(out, "True /usr b\n")
    def test_spawn(self):
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 9"], {}, setsigmask=[], setpgroup=0)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 9)
    def test_pool(self):
        with multiprocessing.Pool(4) as pool: self.assertEqual(pool.map(abs, range(-100, 0)), list(range(100, 0, -1)))
    def test_shared(self):
        v, q = multiprocessing.Value("i", 0), multiprocessing.Queue()
        def work():
            for _ in range(100):
                with v.get_lock(): v.value += 1
            q.put(os.getpid())
        ps = [multiprocessing.Process(target=work) for _ in range(4)]
        for p in ps: p.start()
        self.assertEqual({q.get() for _ in ps}, {p.pid for p in ps})
        for p in ps: p.join()
        self.assertEqual(v.value, 400)

class Threads(unittest.TestCase):
    def test_counter(self):
        n, lock = [0], threading.Lock()
        def add():
            for _ in range(2000):
                with lock: n[0] += 1
        ts = [threading.Thread(target=add) for _ in range(20)]
        for t in ts: t.start()
        for t in ts: t.join()
        self.assertEqual(n[0], 40000)
    def test_queue(self):
        q, r = queue.Queue(3), queue.Queue()
        def work():
            while (x := q.get()) is not None: r.put(x * x)
        ts = [threading.Thread(target=work) for _ in range(5)]
        for t in ts: t.start()
        for i in range(500): q.put(i)
        for t in ts: q.put(None)
        for t in ts: t.join()
        self.assertEqual(sorted(r.queue), [i * i for i in range(500)])
    def test_condition(self):
        c, turn, seen = threading.Condition(), [0], []
        def work(n):
            for _ in range(50):
                with c:
                    c.wait_for(lambda: turn[0] == n)
                    seen.append(n); turn[0] = (n + 1) % 3; c.notify_all()
        ts = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for t in ts: t.start()
        for t in ts: t.join()
        self.assertEqual(seen, [0, 1, 2] * 50)
    def test_timeouts(self):
        self.assertFalse(threading.Event().wait(0.05))
        with self.assertRaises(queue.Empty): queue.Queue().get(timeout=0.05)
    def test_pool(self):
        with concurrent.futures.ThreadPoolExecutor(8) as e: self.assertEqual(sum(e.map(lambda x: zlib.crc32(b"%d" % x) & 1, range(1000))), sum(zlib.crc32(b"%d" % x) & 1 for x in range(1000)))
    def test_fork_with_threads(self):
        stop = threading.Event(); t = threading.Thread(target=stop.wait); t.start()
        pid = os.fork()
        if pid == 0: os._exit(len(os.listdir("/proc/self/task")))
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 1)
        stop.set(); t.join()
    def test_stack(self):
        old = threading.stack_size(256 << 10); t = threading.Thread(target=lambda: None); t.start(); t.join(); threading.stack_size(old)

class Memory(unittest.TestCase):
    def test_shared_anonymous(self):
        m = mmap.mmap(-1, 8192)
        if (pid := os.fork()) == 0:
            m[:5] = b"child"; m[8191] = 1; os._exit(0)
        os.waitpid(pid, 0)
        self.assertEqual((m[:5], m[8191]), (b"child", 1))
    def test_file(self):
        with tempfile.TemporaryFile() as f:
            f.truncate(10000); m = mmap.mmap(f.fileno(), 0)
            m[9000:9004] = b"abcd"; m.flush()
            self.assertEqual(os.pread(f.fileno(), 4, 9000), b"abcd")
            os.pwrite(f.fileno(), b"ZZ", 9001)
            self.assertEqual(m[9000:9004], b"aZZd")
            m.resize(20000); self.assertEqual(os.fstat(f.fileno()).st_size, 20000)
            self.assertEqual(m.find(b"ZZ"), 9001); m.close()
    def test_private(self):
        with tempfile.TemporaryFile() as f:
            f.write(b"original"); f.flush()
            m = mmap.mmap(f.fileno(), 8, access=mmap.ACCESS_COPY); m[:3] = b"new"
            self.assertEqual(os.pread(f.fileno(), 8, 0), b"original")
    def test_readonly(self):
        with open("/usr/bin/python3", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            self.assertEqual(m[:4], b"\x7fELF"); self.assertEqual(bytes(m), f.read())
    def test_large(self):
        b = bytearray(64 << 20); b[::4096] = b"\1" * (len(b) // 4096); self.assertEqual(sum(b[::4096]), len(b) // 4096)
    def test_memory_error(self):
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_AS, (512 << 20,) * 2)
            try: bytearray(1 << 30)
            except MemoryError: os._exit(0)
            os._exit(1)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
    def test_memfd(self):
        fd = os.memfd_create("x", os.MFD_ALLOW_SEALING); os.write(fd, b"abc")
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        with self.assertRaises(PermissionError): os.write(fd, b"d")
        os.close(fd)
    def test_ctypes(self):
        libc = ctypes.CDLL(None, use_errno=True)
        self.assertEqual(libc.strlen(b"hello"), 5); self.assertEqual(libc.close(-1), -1); self.assertEqual(ctypes.get_errno(), 9)

class Waiting(unittest.TestCase):
    def test_select(self):
        r, w = os.pipe()
        self.assertEqual(select.select([r], [w], [], 0), ([], [w], [])); os.write(w, b"x")
        self.assertEqual(select.select([r], [], [], 5), ([r], [], [])); os.close(r); os.close(w)
    def test_poll_epoll(self):
        a, b = socket.socketpair()
        p = select.poll(); p.register(a, select.POLLIN); self.assertEqual(p.poll(10), []); b.send(b"x")
        self.assertEqual(p.poll(5000), [(a.fileno(), select.POLLIN)])
        e = select.epoll(); e.register(a, select.EPOLLIN | select.EPOLLET); self.assertEqual(len(e.poll(5)), 1); self.assertEqual(e.poll(0), [])
        b.close(); self.assertTrue(e.poll(5)[0][1] & select.EPOLLHUP); a.close(); e.close()
    def test_selectors(self):
        with selectors.DefaultSelector() as s:
            pairs = [socket.socketpair() for _ in range(50)]
            for n, (a, _) in enumerate(pairs): s.register(a, selectors.EVENT_READ, n)
            for n in (3, 17, 42): pairs[n][1].send(b"x")
            self.assertEqual(sorted(k.data for k, _ in s.select(5)), [3, 17, 42])
            for a, b in pairs: a.close(); b.close()
    def test_asyncio(self):
        async def main():
            p = await asyncio.create_subprocess_exec("sort", "-n", stdin=-1, stdout=-1)
            out, _ = await p.communicate("\n".join(map(str, range(2000, 0, -1))).encode())
            async def serve(r, w): w.write((await r.readline()).upper()); await w.drain(); w.close()
            server = await asyncio.start_unix_server(serve, "/tmp/async.sock")
            async def ask(n):
                r, w = await asyncio.open_unix_connection("/tmp/async.sock"); w.write(b"hi %d\n" % n); x = await r.read(); w.close(); return x
            got = await asyncio.gather(*(ask(n) for n in range(50)), asyncio.sleep(0.05))
            server.close()
            return out.split()[:2], got[49], got[50]
        self.assertEqual(asyncio.run(main()), ([b"1", b"2"], b"HI 49\n", None))
    def test_signals(self):
        seen = []; old = signal.signal(signal.SIGALRM, lambda s, f: seen.append(s)); signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        while len(seen) < 3: signal.pause()
        signal.setitimer(signal.ITIMER_REAL, 0); signal.signal(signal.SIGALRM, old)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); os.kill(os.getpid(), signal.SIGUSR2)
        self.assertEqual(signal.sigtimedwait([signal.SIGUSR2], 5).si_pid, os.getpid()); signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    def test_pass_descriptor(self):
        a, b = socket.socketpair(); r, w = os.pipe()
        socket.send_fds(a, [b"m"], [w]); msg, fds, _, _ = socket.recv_fds(b, 10, 1); os.write(fds[0], b"through"); self.assertEqual(os.read(r, 10), b"through")
        for x in (r, w, fds[0]): os.close(x)
        a.close(); b.close()
    def test_pty(self):
        pid, fd = pty.fork()
        if pid == 0: os.execlp("sh", "sh", "-c", "tty >/dev/null && stty size; read x; echo got $x; exit 4")
        fcntl.ioctl(fd, 0x5414, struct.pack("HHHH", 33, 99, 0, 0)); os.write(fd, b"abc\n"); out = b""
        try:
            while d := os.read(fd, 1000): out += d
        except OSError: pass
        self.assertIn(b"got abc", out); self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 4); os.close(fd)

class Files(unittest.TestCase):
    def setUp(self): self.dir = pathlib.Path(tempfile.mkdtemp())
    def tearDown(self): shutil.rmtree(self.dir)
    def test_tempfile(self):
        with tempfile.NamedTemporaryFile(dir=self.dir) as f: name = f.name; self.assertTrue(os.path.exists(name)); self.assertEqual(os.stat(name).st_mode & 0o777, 0o600)
        self.assertFalse(os.path.exists(name))
    def test_tree(self):
        for i in range(200): (self.dir / f"d{i % 10}").mkdir(exist_ok=True); (self.dir / f"d{i % 10}" / f"f{i}").write_text(str(i))
        self.assertEqual(len(glob.glob(str(self.dir / "*/f*"))), 200)
        shutil.copytree(self.dir / "d1", self.dir / "e1", symlinks=True); self.assertEqual(len(list((self.dir / "e1").iterdir())), 20)
        os.rename(self.dir / "d1", self.dir / "moved"); self.assertFalse((self.dir / "d1").exists())
        with self.assertRaises(OSError): os.rmdir(self.dir / "moved")
    def test_links(self):
        f = self.dir / "f"; f.write_text("x"); os.link(f, self.dir / "g"); self.assertEqual(f.stat().st_nlink, 2); os.symlink("f", self.dir / "s")
        self.assertEqual(os.readlink(self.dir / "s"), "f"); self.assertTrue(os.path.samefile(f, self.dir / "s")); os.unlink(f); self.assertFalse((self.dir / "s").exists()); self.assertEqual((self.dir / "g").read_text(), "x")
    def test_locks(self):
        f = open(self.dir / "l", "w"); fcntl.lockf(f, fcntl.LOCK_EX)
        if (pid := os.fork()) == 0:
            with open(self.dir / "l", "w") as g:
                try: fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError: os._exit(0)
            os._exit(1)
        self.assertEqual(os.waitpid(pid, 0)[1], 0); f.close()
    def test_sparse(self):
        with open(self.dir / "s", "wb+") as f: f.seek(10 << 20); f.write(b"x"); f.flush(); self.assertEqual(os.pread(f.fileno(), 5, 5 << 20), b"\0" * 5); self.assertLess(os.fstat(f.fileno()).st_blocks, 2000)
    def test_sendfile(self):
        (self.dir / "a").write_bytes(os.urandom(300000)); shutil.copyfile(self.dir / "a", self.dir / "b"); self.assertEqual((self.dir / "a").read_bytes(), (self.dir / "b").read_bytes())
    def test_times(self):
        f = self.dir / "t"; f.touch(); os.utime(f, ns=(123456789, 987654321)); self.assertEqual((f.stat().st_atime_ns, f.stat().st_mtime_ns), (123456789, 987654321))
    def test_xattr(self):
        f = self.dir / "t"; f.touch(); os.setxattr(f, "user.a", b"1"); self.assertEqual((os.listxattr(f), os.getxattr(f, "user.a")), (["user.a"], b"1"))
    def test_fifo(self):
        p = self.dir / "p"; os.mkfifo(p); t = threading.Thread(target=lambda: p.write_text("through")); t.start(); self.assertEqual(p.read_text(), "through"); t.join()
    def test_scandir(self):
        names = {f"n{i}" for i in range(3000)}
        for n in names: (self.dir / n).touch()
        self.assertEqual({e.name for e in os.scandir(self.dir) if e.is_file()}, names)
    def test_sqlite(self):
        db = sqlite3.connect(self.dir / "db"); db.execute("pragma journal_mode=wal"); db.execute("create table t(a)"); db.executemany("insert into t values(?)", ((i,) for i in range(5000))); db.commit()
        self.assertEqual(db.execute("select sum(a) from t").fetchone(), (12497500,)); db.close()
    def test_dirfd(self):
        d = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY); os.mkdir("sub", dir_fd=d); fd = os.open("sub/f", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=d); os.close(fd); self.assertEqual(os.listdir(d), ["sub"]); self.assertEqual(os.stat("sub/f", dir_fd=d).st_mode & 0o777, 0o640); os.close(d)

if __name__ == "__main__": unittest.main()
END
cd /tmp
python3 -m unittest -v test_system 2>&1 | sed 's/ in [0-9.]*s$//'
python3 -m unittest test_system 2>&1 | sed 's/ in [0-9.]*s$//'
