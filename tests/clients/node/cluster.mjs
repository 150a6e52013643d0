// node cluster.mjs LIBRARY PID PORT...: a cluster of Marline as ioredis' Cluster and node-redis' createCluster use it.
// The process PID is one of its nodes, and is killed on the way. Any failed assertion exits 1.
import assert from "node:assert/strict";
import Redis from "ioredis";
import { createCluster } from "redis";

const [library, pid, ...ports] = process.argv.slice(2);
const KEYS = 2000;
const keys = (prefix) => Array.from({ length: KEYS }, (_, i) => `${prefix}${i}`);

const libraries = {
  async ioredis(withReplicas) {
    const nodes = ports.map((port) => ({ host: "127.0.0.1", port: Number(port) }));
    const cluster = new Redis.Cluster(nodes, { scaleReads: withReplicas ? "all" : "master" });
    return {
      set: (key, value) => cluster.set(key, value),
      get: (key) => cluster.get(key),
      nodes: () => cluster.nodes("all").length,
      close: () => cluster.quit(),
      async pipeline() {
        const pipeline = cluster.pipeline();
        for (let i = 0; i < KEYS; i++) pipeline.set(`{same}${i}`, i).incr(`{same}${i}`);
        const results = await pipeline.exec();
        results.forEach(([error, value], i) => {
          assert.equal(error, null);
          assert.equal(value, i % 2 ? (i + 1) / 2 : "OK");
        });
      },
    };
  },

  async redis(withReplicas) {
    const rootNodes = ports.map((port) => ({ url: `redis://127.0.0.1:${port}` }));
    const cluster = createCluster({ rootNodes, useReplicas: withReplicas });
    cluster.on("error", () => {}).on("node-error", () => {});
    await cluster.connect();
    return {
      set: (key, value) => cluster.set(key, value),
      get: (key) => cluster.get(key),
      nodes: () => cluster.masters.length + cluster.replicas.length,
      close: () => cluster.close(),
      async pipeline() {
        const multi = cluster.multi();
        for (let i = 0; i < KEYS; i++) multi.set(`{same}${i}`, String(i)).incr(`{same}${i}`);
        const results = await multi.execAsPipeline();
        results.forEach((value, i) => assert.equal(value, i % 2 ? (i + 1) / 2 : "OK"));
      },
    };
  },
};

// What was on its way to the node that was killed may have been done or not: the client is told so, and asks again.
async function surely(ask) {
  for (let attempts = 1; ; attempts++) {
    try {
      return await ask();
    } catch (error) {
      if (attempts === 20) throw error;
      await new Promise((done) => setTimeout(done, 250));
    }
  }
}

for (const withReplicas of [true, false]) {
  const client = await libraries[library](withReplicas);
  assert.deepEqual(await Promise.all(keys("a").map((key) => client.set(key, key))), keys("a").map(() => "OK"));
  if (!withReplicas) {
    assert.deepEqual(await Promise.all(keys("a").map((key) => client.get(key))), keys("a"));
    await client.pipeline();
    const writes = keys("b").map((key, i) => {
      if (i === KEYS / 2) process.kill(Number(pid), "SIGKILL");
      return surely(() => client.set(key, key));
    });
    assert.deepEqual(await Promise.all(writes), keys("b").map(() => "OK"));
    const read = (prefix) => Promise.all(keys(prefix).map((key) => surely(() => client.get(key))));
    assert.deepEqual(await read("a"), keys("a"));
    assert.deepEqual(await read("b"), keys("b"));
  } else {
    assert.equal(client.nodes(), 3);
    for (const key of keys("a").slice(0, 100)) assert.ok([key, null].includes(await client.get(key)));
  }
  await client.close();
}
process.exit(0);
