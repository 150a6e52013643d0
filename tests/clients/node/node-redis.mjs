// node node-redis.mjs PORT PART: node-redis as its users call it, for both protocols. Any failed assertion exits 1.
import assert from "node:assert/strict";
import { createClient, RESP_TYPES } from "redis";

const [port, part] = process.argv.slice(2);

const parts = {
  async commands(client) {
    assert.equal(await client.set("k", "two words"), "OK");
    assert.equal(await client.get("k"), "two words");
    assert.equal(await client.get("none"), null);
    const buffers = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
    assert.deepEqual(await buffers.get("k"), Buffer.from("two words"));
    assert.equal(await client.incrBy("n", 41), 41);
    assert.equal(await client.incr("n"), 42);
    assert.equal(await client.set("t", "x", { expiration: { type: "EX", value: 100 } }), "OK");
    assert.ok((await client.ttl("t")) > 90);
    assert.deepEqual(await client.mGet(["k", "none", "n"]), ["two words", null, "42"]);
    assert.equal(await client.del(["k", "none"]), 1);
    assert.equal(await client.exists("k"), 0);
    await assert.rejects(client.sendCommand(["nosuch", "a"]), /ERR unknown command 'nosuch'/);
    await assert.rejects(client.sendCommand(["get"]), /wrong number of arguments for 'get' command/);
    assert.equal((await client.configGet("maxmemory")).maxmemory, "0");
    assert.equal(await client.clientSetName("lookout"), "OK");
    assert.equal(await client.clientGetName(), "lookout");
  },

  async pipelines(client, connect) {
    const sets = await Promise.all(Array.from({ length: 5000 }, (_, i) => client.set(`k${i}`, String(i))));
    sets.forEach((reply) => assert.equal(reply, "OK"));
    const gets = await Promise.all(Array.from({ length: 5000 }, (_, i) => client.get(`k${i}`)));
    gets.forEach((value, i) => assert.equal(value, String(i)));
    assert.deepEqual(await client.multi().set("a", "1").incr("a").get("a").exec(), ["OK", 2, "2"]);
    const other = await connect();
    await client.watch("a");
    await other.set("a", "changed");
    await assert.rejects(client.multi().set("a", "lost").exec(), /watch/i);
    assert.equal(await client.get("a"), "changed");
    await other.close();
  },

  async subscribe(client, connect) {
    const subscriber = await connect();
    const got = [];
    await new Promise(async (done, failed) => {
      const take = (text) => got.push(text) === 400 && done();
      try {
        await subscriber.subscribe("news", (text, channel) => take(`m ${channel} ${text}`));
        await subscriber.pSubscribe("ne*", (text, channel) => take(`p ${channel} ${text}`));
        for (let i = 0; i < 200; i++) assert.equal(await client.publish("news", String(i)), 2);
      } catch (error) {
        failed(error);
      }
    });
    assert.deepEqual(got.filter((t) => t[0] === "m"), Array.from({ length: 200 }, (_, i) => `m news ${i}`));
    assert.deepEqual(got.filter((t) => t[0] === "p"), Array.from({ length: 200 }, (_, i) => `p news ${i}`));
    await subscriber.unsubscribe();
    await subscriber.pUnsubscribe();
    assert.equal(await client.publish("news", "nobody"), 0);
    await subscriber.close();
  },

  async scan(client) {
    await client.mSet(Array.from({ length: 3000 }, (_, i) => [`key:${i}`, String(i)]));
    const found = new Set();
    for await (const keys of client.scanIterator({ MATCH: "key:*", COUNT: 100 })) keys.forEach((key) => found.add(key));
    assert.equal(found.size, 3000);
  },
};

for (const RESP of [2, 3]) {
  const connect = () => createClient({ RESP, socket: { port: Number(port), host: "127.0.0.1", reconnectStrategy: false } })
    .on("error", (error) => { throw error; })
    .connect();
  const client = await connect();
  await client.flushAll();
  await parts[part](client, connect);
  await client.close();
}
