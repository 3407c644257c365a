/** What the network makes of a photo of which it sees a part. */

import { Panel } from "../panel.js";

export class Reconstruct extends Panel {
  constructor(section, page) {
    super(section, page);
    for (const control of ["ratio", "seed"]) this.part(control).addEventListener("input", () => this.refresh());
    this.part("shuffle").addEventListener("click", () => {
      this.part("seed").value = (Number(this.part("seed").value) + 1) % 1000000;
      this.refresh();
    });
  }

  get offered() {
    return this.page.info.operations.reconstruct;
  }

  async work(photos, signal) {
    const ratio = Number(this.part("ratio").value) / 100;
    const seed = Number(this.part("seed").value) || 0;
    this.part("ratio-text").textContent = `${Math.round(ratio * 100)} %`;
    const python = { method: "reconstruct", args: [["mask_ratio", ratio], ["seed", seed]] };
    const { body } = await this.ask("reconstruct", { photos, params: { mask_ratio: ratio, seed }, signal, python });
    for (const name of ["original", "masked", "reconstruction"]) this.part(name).src = `data:image/png;base64,${body.images[name]}`;
    const removed = body.mask.reduce((sum, value) => sum + value, 0);
    this.part("masked-text").textContent = `Masked: ${removed} of ${body.mask.length} patches hidden`;
    this.part("reconstruction-text").textContent = `Reconstruction: error ${body.mean_error.toFixed(3)}`;
    this.part("borrowed").hidden = body.pixel_target !== "normalized";
  }
}
