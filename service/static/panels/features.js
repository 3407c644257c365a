import { Panel } from "../panel.js";

export class Features extends Panel {
  get offered() {
    return false;
  }
}
