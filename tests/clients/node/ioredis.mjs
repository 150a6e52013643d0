// node ioredis.mjs PORT PART: ioredis as its users call it, for both protocols. Any failed assertion exits 1.
import assert from "node:assert/strict";
import Redis from "ioredis";

const [port, part] = process.argv.slice(2);

const parts = {
  async commands(redis) {
    assert.equal(await redis.set("k", "two words"), "OK");
    assert.equal(await redis.get("k"), "two words");
    assert.equal(await redis.get("none"), null);
    assert.deepEqual(await redis.getBuffer("k"), Buffer.from("two words"));
    assert.equal(await redis.incrby("n", 41), 41);
    assert.equal(await redis.incr("n"), 42);
    assert.equal(await redis.set("t", "x", "EX", 100), "OK");
    assert.ok((await redis.ttl("t")) > 90);
    assert.deepEqual(await redis.mget("k", "none", "n"), ["two words", null, "42"]);
    assert.equal(await redis.del("k", "none"), 1);
    await assert.rejects(redis.call("nosuch", "a"), /ERR unknown command 'nosuch'/);
    await assert.rejects(redis.call("get"), /wrong number of arguments for 'get' command/);
    const binary = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    await redis.set(binary, binary);
    assert.deepEqual(await redis.getBuffer(binary), binary);
  },

  async pipelines(redis) {
    const pipeline = redis.pipeline();
    for (let i = 0; i < 5000; i++) pipeline.set(`k${i}`, i).get(`k${i}`);
    const results = await pipeline.exec();
    assert.equal(results.length, 10000);
    results.forEach(([error, value], i) => {
      assert.equal(error, null);
      assert.equal(value, i % 2 ? String((i - 1) / 2) : "OK");
    });
    const all = await Promise.all(Array.from({ length: 5000 }, (_, i) => redis.get(`k${i}`)));
    all.forEach((value, i) => assert.equal(value, String(i)));
    const multi = await redis.multi().set("a", "x").incr("a").incr("b").exec();
    assert.equal(multi[0][1], "OK");
    assert.match(multi[1][0].message, /not an integer/);
    assert.equal(multi[2][1], 1);
  },

  async subscribe(redis, connect) {
    const subscriber = connect();
    const got = [];
    const all = new Promise((done) => {
      const take = (text) => got.push(text) === 400 && done();
      subscriber.on("message", (channel, text) => take(`m ${channel} ${text}`));
      subscriber.on("pmessage", (pattern, channel, text) => take(`p ${pattern} ${channel} ${text}`));
    });
    assert.equal(await subscriber.subscribe("news"), 1);
    assert.equal(await subscriber.psubscribe("ne*"), 2);
    for (let i = 0; i < 200; i++) assert.equal(await redis.publish("news", i), 2);
    await all;
    assert.deepEqual(got.filter((t) => t[0] === "m"), Array.from({ length: 200 }, (_, i) => `m news ${i}`));
    assert.deepEqual(got.filter((t) => t[0] === "p"), Array.from({ length: 200 }, (_, i) => `p ne* news ${i}`));
    assert.equal(await subscriber.unsubscribe("news"), 1);
    assert.equal(await subscriber.punsubscribe("ne*"), 0);
    assert.equal(await subscriber.get("none"), null);
    subscriber.disconnect();
  },

  async scan(redis) {
    const pipeline = redis.pipeline();
    for (let i = 0; i < 3000; i++) pipeline.set(`key:${i}`, i);
    await pipeline.exec();
    const found = new Set();
    for await (const keys of redis.scanStream({ match: "key:*", count: 100 })) keys.forEach((key) => found.add(key));
    assert.equal(found.size, 3000);
  },
};

for (const protocol of [2, 3]) {
  const connect = () => new Redis({ port: Number(port), host: "127.0.0.1", protocol, retryStrategy: null });
  const redis = connect();
  await redis.flushall();
  await parts[part](redis, connect);
  assert.equal(await redis.quit(), "OK");
}
