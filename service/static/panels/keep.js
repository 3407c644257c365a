import { Panel } from "../panel.js";

export class Keep extends Panel {
  get offered() {
    return false;
  }
}
