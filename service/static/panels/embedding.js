/** The photo as a vector. */

import { Panel, colour } from "../panel.js";

export class Embedding extends Panel {
  async work(photos, signal) {
    const { body } = await this.ask("embed", { photos, signal, python: { method: "embed" } });
    this.part("text").textContent = `${body.dim} values, ${body.pooling} pooling, scaled to length 1`;
    this.#draw(body.embeddings[0]);
  }

  #draw(vector) {
    const canvas = this.part("bars");
    const width = (canvas.width = canvas.clientWidth * devicePixelRatio);
    const height = (canvas.height = canvas.clientHeight * devicePixelRatio);
    const pen = canvas.getContext("2d");
    const [plus, minus] = [colour("--plus"), colour("--minus")];
    const step = width / vector.length;
    const most = Math.max(...vector.map(Math.abs), 1e-9);
    vector.forEach((value, i) => {
      const size = ((Math.abs(value) / most) * height) / 2;
      pen.fillStyle = value < 0 ? minus : plus;
      pen.fillRect(i * step, value < 0 ? height / 2 : height / 2 - size, Math.max(step * 0.8, 0.5), size);
    });
  }
}
